"""What Scipion's installer finds first.

It takes the first package of a distribution, in alphabetical order, for the plugin. That would be `cryoden`, which
knows nothing of Scipion. Nothing else imports this package; the plugin is `cryoden_scipion`.
"""

from cryoden_scipion import Plugin as Plugin
