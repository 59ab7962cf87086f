"""What the kernels of several operations share. Nothing outside the folders of this name imports triton."""
