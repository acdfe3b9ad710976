"""The colours of maps, figures and pages: blue speaks for a class, red speaks against it.

Deuteranopes and protanopes, who take red for grey or olive, tell it from the blue; and on photos, which are rich in
brown, orange and skin, both stand out.
"""

# Maps from zero up; perceptually uniform, and told apart with every common colour blindness.
SEQUENTIAL = "plasma"
# Maps with a sign: red (against), a neutral middle, blue (for), of about equal lightness on both sides.
SIGNED = (
    *("#7a0026", "#c4003c", "#f01e5a", "#ff7d9c", "#ffd0da", "#f7f7f7"),
    *("#cfe2ff", "#82b8ff", "#2f86f6", "#0f55cc", "#052a7d"),
)
# On a light and on a dark page.
PAGE = {
    "paper": ("#fbfaf8", "#14171b"),
    "card": ("#ffffff", "#1b1f24"),
    "soft": ("#f1efeb", "#232830"),
    "ink": ("#1d2127", "#e8e6e1"),
    "quiet": ("#5f6772", "#a0a8b2"),
    "line": ("#e3e1dc", "#2e343b"),
    "accent": ("#23538f", "#8fb8ea"),
    "warm": ("#b35806", "#f0a35e"),  # what is wrong, and the second colour of figures
    "chosen": ("#e9f0f8", "#22303f"),
    "for": ("#0f55cc", "#82b8ff"),
    "against": ("#c4003c", "#ff7d9c"),
    "hollow": ("#8a93a0", "#7d8793"),
    "bar": ("#9fb4cf", "#4c6686"),
}
