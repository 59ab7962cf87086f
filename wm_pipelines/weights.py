"""Where weights lie in memory, as far as results depend on it."""

from torch import nn


def align(module: nn.Module) -> None:
    """Copies CPU parameters and buffers that do not start at a 64-byte boundary to ones that do.

    A safetensors file is mapped into memory at whatever offset a tensor has in it, and CPU kernels sum in another
    order there: without this, a loaded model differs from the saved one in the last bits.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()
