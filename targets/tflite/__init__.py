"""TensorFlow Lite: `.tflite` files written from the IR, for LiteRT, tflite-micro and Arm's Ethos-U."""
