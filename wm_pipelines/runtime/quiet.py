"""Lines that other libraries print while they are loaded, and that tell a user nothing."""

import logging

# logger -> what its superfluous lines hold
SUPERFLUOUS = {
    # pictures are read by Pillow here whether torchvision is there or not
    "transformers.utils.import_utils": "requires torchvision (not installed); falling back to",
    # a warning about an empty list
    "diffusers.models.modeling_utils": "that should be kept in float32: [].",
}


class _Without(logging.Filter):
    def __init__(self, text: str):
        super().__init__()
        self.text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return self.text not in record.getMessage()


def leave_out_superfluous_lines() -> None:
    """Drops exactly those lines; everything else that the loggers say is printed as before."""
    for name, text in SUPERFLUOUS.items():
        logger = logging.getLogger(name)
        if not any(isinstance(found, _Without) for found in logger.filters):
            logger.addFilter(_Without(text))
