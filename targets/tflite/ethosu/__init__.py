"""Arm Ethos-U: the int8 `.tflite` file through Vela, and what Vela decided about it."""
