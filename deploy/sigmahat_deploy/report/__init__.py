# SPDX-License-Identifier: Apache-2.0
"""The page of `sigmahat report`: a module a section, each from data to numbers to figures; `page` is the whole."""
