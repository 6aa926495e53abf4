import { afterEach, describe, expect, it } from "vitest";
import { linkTo, navigate, parseHash, route, updateQuery } from "./routing";

describe("parseHash", () => {
  it("reads the view and its state", () =>
    expect(parseHash("#/servers?server=web-01&target=cpu_user")).toEqual({
      view: "servers",
      query: { server: "web-01", target: "cpu_user" },
    }));

  it.each(["", "#", "#/", "#/nothing", "#main", "#/../fleet"])("opens the fleet for %s", (hash) =>
    expect(parseHash(hash)).toEqual({ view: "fleet", query: {} }),
  );

  it("survives text that is not percent-encoded", () => expect(parseHash("#/fleet?search=%E0%A4%A").view).toBe("fleet"));
});

describe("linkTo", () => {
  it.each(["a&b=c?d#e", "x/accuracy", "..", "Ω 100 %", "+", "a\nb", "%2F", "constructor", "__proto__"])(
    "leads back to the server %j",
    (server) => expect(parseHash(linkTo("servers", { server })).query["server"]).toBe(server),
  );

  it("leaves empty values out", () => expect(linkTo("fleet", { search: "", target: "" })).toBe("#/fleet"));
});

describe("the route", () => {
  afterEach(() => history.replaceState(null, "", "#/fleet"));

  it("follows the address", async () => {
    navigate("alerts", { state: "firing" });
    await new Promise((resolve) => window.addEventListener("hashchange", resolve, { once: true }));
    expect(route.value).toEqual({ view: "alerts", query: { state: "firing" } });
  });

  it("changes in place, without an entry of the history", () => {
    history.replaceState(null, "", "#/fleet?search=web");
    route.value = parseHash(location.hash);
    const entries = history.length;
    updateQuery({ target: "cpu_user" });
    updateQuery({ search: "" });
    expect(location.hash).toBe("#/fleet?target=cpu_user");
    expect(route.value.query).toEqual({ target: "cpu_user" });
    expect(history.length).toBe(entries);
  });

  it("is not set anew when nothing changes", () => {
    updateQuery({ sort: "name" });
    const former = route.value;
    updateQuery({ sort: "name" });
    expect(route.value).toBe(former);
  });
});
