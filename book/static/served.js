// A page that was opened as a file: browsers load no modules there, so nothing moves. A classic script can still say so.

if (location.protocol === "file:") {
  addEventListener("DOMContentLoaded", () => {
    const note = document.createElement("p");
    note.className = "lesson-served";
    note.textContent = "This page was opened as a file, where browsers let nothing move. In the book's folder give "
      + "python3 -m http.server, and open http://localhost:8000";
    document.querySelector("article").prepend(note);
  });
}
