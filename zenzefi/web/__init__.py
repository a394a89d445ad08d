"""HTTP as all slices speak it: keys, middlewares, validation, problems, paging, OpenAPI."""
