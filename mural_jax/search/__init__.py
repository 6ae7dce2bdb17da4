"""Search: indexes of embedded images, the ways to find in them, and a web page. No TensorFlow."""
