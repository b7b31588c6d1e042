"""The only place that knows files: MRC, TIFF, STAR, model files."""
