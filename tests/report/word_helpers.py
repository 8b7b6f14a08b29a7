"""The words of a run's config.json, as an entry point writes them."""

# name: scope, text of a value, usual value
WORDS = {
    "image_size": ("tasks", "{0}x{0}", None),
    "presentations": ("tasks", "{} presentations", None),
    "delay": ("tasks", "delay {}", 1),
    "subtasks": ("tasks", "{} subtasks", None),
    "inject": ("learner", "labels to {}", "first"),
    "skip": ("learner", "skip {}", "add"),
    "filters": ("learner", "filters {}", 64),
    "hidden": ("learner", "hidden {}", 256),
}


def words(**settings):
    return [
        [scope, name, text.format(settings[name]), settings[name] == usual]
        for name, (scope, text, usual) in WORDS.items()
        if settings.get(name) is not None
    ]
