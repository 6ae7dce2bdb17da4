"""Published weights: reads files of other libraries and places their arrays in our models."""
