"""References of the methods that the protocols use."""

BIBTEX = """
@inproceedings{Lehtinen2018,
    author = {Lehtinen, Jaakko and Munkberg, Jacob and Hasselgren, Jon and Laine, Samuli and Karras, Tero and
        Aittala, Miika and Aila, Timo},
    title = {{Noise2Noise}: Learning Image Restoration without Clean Data},
    booktitle = {Proceedings of the 35th International Conference on Machine Learning},
    pages = {2965--2974},
    year = {2018}
}

@inproceedings{Ronneberger2015,
    author = {Ronneberger, Olaf and Fischer, Philipp and Brox, Thomas},
    title = {{U-Net}: Convolutional Networks for Biomedical Image Segmentation},
    booktitle = {Medical Image Computing and Computer-Assisted Intervention},
    pages = {234--241},
    year = {2015},
    doi = {10.1007/978-3-319-24574-4_28}
}
"""
