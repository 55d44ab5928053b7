"""People who taste: what they said, kept in a database; lists for them over HTTP; a page.

Stands on `palate`, which knows no people, and shares bodies, errors and page files with `serving`.
Only `app` knows Ray. From events to a list:

    database.open_database(url) -> Engine        SQLite by default, PostgreSQL by URL; migrated
    store.Store(engine)                          people and events; append-only, idempotent
    opinions.said_of(opinions, model, now_ms)    what a person said, as `palate` reads it
    following.Follower(storage, name)            the newest model of a name, loaded aside
    host.Host(store, follower)                   what the routes ask for
    routes.create_app(host, config)              JSON API and page as a FastAPI application
    app.build(config)                            the same on Ray Serve
"""
