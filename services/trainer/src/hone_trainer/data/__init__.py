"""From whatever files people have to a sealed dataset, in one direction:

sources     what a spec names, settled: files (files), or a dataset on the Hub (hub)
reading     their rows, each with its line (rows, text_files, json_files, tables)
refining    a row becomes a clean record, or is rejected (formats, messages, sharegpt, columns, html_text,
            cleaning, filters, rejection); large files on all cores (cores)
gathering   every record once: repeats, leaks and near-duplicates go (likeness); the others wait (pool)
lengths     in tokens, by the base's tokenizer and chat template (tokeniser, tokenising)
choosing    what is drawn from each source, and what is set aside
dataset     all of that in order, sealed with an account of every row (tally, report, report_page)

one_file reads a single file as it stands, for whoever wants no dataset.
"""
