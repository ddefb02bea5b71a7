"""Colours, in one table for all that is drawn: Okabe and Ito's, safe for colour-blind readers.

Whatever a colour means has a second cue, too: a dash, a width, a letter, a marker.
"""

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, YELLOW, BLACK = "#E69F00", "#56B4E9", "#F0E442", "#000000"
#: For ratio 3 of default boxes alone: no meaning of a cell or of a match is lent to a shape.
BROWN = "#A6761D"

#: For classes and curves in general: one after the other.
CYCLE = (VERMILION, BLUE, PURPLE, GREEN, ORANGE, SKY, YELLOW)
#: For the course's cells.
CLASS_COLOURS = {"RBC": VERMILION, "WBC": BLUE, "Platelets": PURPLE}
#: For kinds of boxes, and the cells.
COLOURS = {
    "truth": BLACK,
    "prediction": SKY,
    "anchor": "#444444",
    "positive": GREEN,
    "ignored": ORANGE,
    "negative": "#777777",
    "shared": YELLOW,
    **CLASS_COLOURS,
}
#: For curves, which have no fixed meaning. The first of a chart is drawn in the text's colour.
CURVES = {"one": BLUE, "two": VERMILION, "three": GREEN, "four": PURPLE, "five": ORANGE}
