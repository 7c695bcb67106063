from hypothesis import Phase, settings

# For broken copies of the package: that a property fails is enough, the smallest example would take minutes.
settings.register_profile("without_shrinking", phases=(Phase.explicit, Phase.generate))
