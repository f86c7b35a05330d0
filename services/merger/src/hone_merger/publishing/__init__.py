"""A model or an adapter leaves the store:

bundle    which files, with what the store's are replaced by outside
folder    a plain folder, ready for Git LFS
archive   one tar file, which tells neither when nor by whom it was packed
hub       a repository on the Hugging Face Hub, in one commit
gguf      one file for llama.cpp, by its own converter
place     where on this machine it may go, and that it is there whole or not at all
"""
