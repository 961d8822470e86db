"""The frontend: from a published model description to a
:class:`glmc.ir.model.Model`."""
