"""The page that operators keep open: its sources in `page/`, and in `assets/` what is built from them and served."""
