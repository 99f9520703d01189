"""Edits judged by a vision-language model: the protocols of ImgEdit, GEdit (VIEScore), EditEval (LMM score) and Ditto.

python -m unireal.evaluation judge DIR --protocol gedit --model MODEL [--base-url URL | --local]
"""
