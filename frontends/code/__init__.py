"""Published modeling code, read as text.

A tree-walking interpreter over Python's ``ast`` with a closed vocabulary: plain values,
the classes and functions of the text, tables of torch functions, and contracts for what
texts import. Nothing of a text is imported, compiled or executed by Python.

It imports torch; compiling, inspecting and checking do not import it.
"""
