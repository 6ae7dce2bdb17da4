"""TensorFlow lives here and nowhere else: data sets, streams, images, text."""
