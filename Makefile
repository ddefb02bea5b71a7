# Sugar for machines with make; `python3 lab.py` and `python3 lab.py test` are the same everywhere.
.PHONY: lab test book
lab:  ; @python3 lab.py $(ARGS)
test: ; @python3 lab.py test $(ARGS)
book: ; @python3 lab.py book $(ARGS)
