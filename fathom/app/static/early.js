// Runs before the first paint, so that the page begins in its language, direction and colours and never flips.
(() => {
  const stored = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  };
  const root = document.documentElement;
  const theme = stored("fathom.theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const tags = [stored("fathom.language"), ...navigator.languages].filter(Boolean).map((tag) => tag.slice(0, 2).toLowerCase());
  root.lang = tags.find((tag) => ["en", "zh", "ar"].includes(tag)) ?? "en";
  root.dir = root.lang === "ar" ? "rtl" : "ltr";
})();
