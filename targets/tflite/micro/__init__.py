"""Microcontrollers: a `.tflite` file as C++ source, its arena, its budgets, for TensorFlow Lite for Microcontrollers."""
