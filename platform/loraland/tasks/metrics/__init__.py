"""What an answer is worth: a page per kind of answer; `tasks/grading.py` chooses among them."""
