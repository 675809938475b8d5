"""`/docs`: every route with its fields, under a policy that lets nothing run."""


def test_the_page_shows_every_route_and_its_fields(served):
    with served.client() as client:
        response = client.get("/docs")
        document = client.get("/openapi.json").json()
    assert response.headers["content-type"].startswith("text/html")
    assert "script" not in response.text
    assert "default-src 'none'; style-src 'sha256-" in response.headers["content-security-policy"]
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"<code>{method.upper()} {path}</code>" in response.text
    for field in document["components"]["schemas"]["ChatFields"]["properties"]:
        assert f"<code>{field}</code>" in response.text


def test_it_needs_the_key_like_the_rest(start):
    served = start(api_key="sk-some-key")
    with served.client() as client:
        assert client.get("/docs").status_code == 401
