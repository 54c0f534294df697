"""Data: sources of images, the order of batches, augmentation and views of the networks."""
