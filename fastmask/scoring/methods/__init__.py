"""The ways to choose masks, a file each: ``--method leave-one-out`` is ``leave_one_out.py``, its ``METHOD``.

``core.config.METHODS`` lists them.
"""
