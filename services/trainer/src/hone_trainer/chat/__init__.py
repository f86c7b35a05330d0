"""A record's messages, as the model reads them.

template_choice   the run's chat template: the base's, one of templates/, or a file
chat_templates    the text it makes of a conversation, the same as the server's
masks             where in that text the assistant speaks
conversation      its token ids, and which of them are learned
preview           records as the model will see them, on a terminal and as a page (preview_page)
"""
