"""The formats of ``fastmask export``, a file each, with its ``FORMAT``; ``core.config.EXPORT_FORMATS`` lists them."""
