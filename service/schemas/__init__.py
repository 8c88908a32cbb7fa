"""What goes over the wire, one file a dialect; every fixed limit is a field constraint.

A body is validated once, straight from its bytes: what JSON Schema cannot say (equal rows, the pad id, the model's
vocabulary) is checked by the same pass.
"""
