"""Wizards: help in filling a form."""

from .wizard_look import CryodenLookAtDataWizard as CryodenLookAtDataWizard
