"""From a published model description to a :class:`glmc.ir.model.Model`."""
