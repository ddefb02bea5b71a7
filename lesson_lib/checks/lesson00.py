"""Self-test of lesson 0."""
from lesson_lib.checks import Case, Exercise

EXERCISES = {
    "00.ssd300": Exercise([Case("the number of SSD300's default boxes", (), 8732)], "that is how a check looks "
                          "when it is content."),
    "00.broadcasting": Exercise([Case("the shape of a + b", (), (3, 5, 4))], "you are ready for all-pairs code."),
    "00.convolution": Exercise([Case("cells on a side", (), 10)], "and that is SSD's third map."),
    "00.softmax_sigmoid": Exercise([Case("softmax and sigmoid at 0, then at 5", (), (0.5, 0.5, 0.5, 0.99))],
                                   "softmax compares, sigmoid judges each alone.", tolerance=0.006),
    "00.cross_entropy": Exercise([Case("the loss at 0.9, then at 0.1", (), (0.10536, 2.302585))],
                                 "being right is nearly free, being wrong is dear.", tolerance=0.001),
    "00.loss_curves": Exercise([Case("too high, by heart, not finished", (), ("B", "C", "D"))],
                               "you can read a loss curve."),
}
