"""What cryoden shares with other trainers: patch files, and bundles that prove that two implementations agree."""
