"""References of the methods that the protocols use; Scipion reads them from this docstring.

@inproceedings{Lehtinen2018,
    author = {Lehtinen, Jaakko and Munkberg, Jacob and Hasselgren, Jon and Laine, Samuli and Karras, Tero and
        Aittala, Miika and Aila, Timo},
    title = {{Noise2Noise}: Learning Image Restoration without Clean Data},
    booktitle = {Proceedings of the 35th International Conference on Machine Learning},
    pages = {2965--2974},
    year = {2018},
    url = {https://proceedings.mlr.press/v80/lehtinen18a.html}
}

@inproceedings{Ronneberger2015,
    author = {Ronneberger, Olaf and Fischer, Philipp and Brox, Thomas},
    title = {{U-Net}: Convolutional Networks for Biomedical Image Segmentation},
    booktitle = {Medical Image Computing and Computer-Assisted Intervention},
    pages = {234--241},
    year = {2015},
    doi = {https://doi.org/10.1007/978-3-319-24574-4_28}
}

@article{Bepler2020,
    author = {Bepler, Tristan and Kelley, Kotaro and Noble, Alex J. and Berger, Bonnie},
    title = {{Topaz-Denoise}: general deep denoising models for {cryoEM} and {cryoET}},
    journal = {Nature Communications},
    volume = {11},
    pages = {5208},
    year = {2020},
    doi = {https://doi.org/10.1038/s41467-020-18952-1}
}

@article{Grant2015,
    author = {Grant, Timothy and Grigorieff, Nikolaus},
    title = {Measuring the optimal exposure for single particle cryo-{EM} using a 2.6 Å reconstruction of rotavirus
        {VP6}},
    journal = {eLife},
    volume = {4},
    pages = {e06980},
    year = {2015},
    doi = {https://doi.org/10.7554/eLife.06980}
}

@article{Li2013,
    author = {Li, Xueming and Mooney, Paul and Zheng, Shawn and Booth, Christopher R. and Braunfeld, Michael B. and
        Gubbens, Sander and Agard, David A. and Cheng, Yifan},
    title = {Electron counting and beam-induced motion correction enable near-atomic-resolution single-particle
        cryo-{EM}},
    journal = {Nature Methods},
    volume = {10},
    pages = {584-590},
    year = {2013},
    doi = {https://doi.org/10.1038/nmeth.2472}
}

@article{Zivanov2019,
    author = {Zivanov, Jasenko and Nakane, Takanori and Scheres, Sjors H. W.},
    title = {A {Bayesian} approach to beam-induced motion correction in cryo-{EM} single-particle analysis},
    journal = {IUCrJ},
    volume = {6},
    pages = {5-17},
    year = {2019},
    doi = {https://doi.org/10.1107/S205225251801463X}
}

@article{Vulovic2013,
    author = {Vulović, Miloš and Ravelli, Raimond B. G. and van Vliet, Lucas J. and Koster, Abraham J. and
        Lazić, Ivan and Lücken, Uwe and Rullgård, Hans and Öktem, Ozan and Rieger, Bernd},
    title = {Image formation modeling in cryo-electron microscopy},
    journal = {Journal of Structural Biology},
    volume = {183},
    pages = {19--32},
    year = {2013},
    doi = {https://doi.org/10.1016/j.jsb.2013.05.008}
}

@article{Iudin2023,
    author = {Iudin, Andrii and Korir, Paul K. and Somasundharam, Sriram and Weyand, Simone and Cattavitello, Cesare and
        Fonseca, Neli and Salih, Osman and Kleywegt, Gerard J. and Patwardhan, Ardan},
    title = {{EMPIAR}: the Electron Microscopy Public Image Archive},
    journal = {Nucleic Acids Research},
    volume = {51},
    pages = {D1503--D1511},
    year = {2023},
    doi = {https://doi.org/10.1093/nar/gkac1062}
}
"""
