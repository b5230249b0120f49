//! What every HTTP part stands on: problems, bodies, pages, and the server loop.
