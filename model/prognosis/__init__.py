"""What the next image will show, from what a model read on the images so far and what the chart says."""
