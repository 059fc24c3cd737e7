"""What ONNX nodes say, with attributes, defaults and constant inputs resolved: shared by targets that lower ops themselves."""
