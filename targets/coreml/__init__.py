"""Core ML: ML Programs from edgec's own lowering, built with coremltools' MIL builder, checked without a Mac."""
