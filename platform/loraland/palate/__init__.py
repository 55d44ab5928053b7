"""Grapevine: palates found in reviews, and wines of quality for their price inside liked palates.

A reconstruction of arXiv 1807.00692, of which only the abstract was in reach (docs/palate.md). The
same machinery takes any catalogue of items with a text, a price and a quality. Without torch, Ray
or a database; the ways in, from data to a list:

    reviews.read_reviews(path) -> cleaning.catalogue_of(...).catalogue         wines from a file
    generator.generate(...) -> World                                           wines made up
    fitting.fit(catalogue, FitSettings(...)) -> PalateModel                    what is learned
    artifact.save(model, storage, name) -> version; artifact.load(storage, name) -> PalateModel
    preference.Tastes(liked=(key, ...), disliked=..., text=..., ages_days=...)  what a person said
    preference.profile(model, tastes) -> Profile                               theta over palates
    recommend.recommend(model, tastes, scoring.Wish(count=10, budget=25)) -> Shelf   with 'why'
    onboarding.first_cards(model, count), onboarding.next_card(model, tastes)  cold start
    alignment.align(old, new) -> Alignment                                     a refit keeps palates

Items are named by their keys (16 hex digits), palates by ids that survive a refit (`p00`...).
"""
