// What a page shows, kept in the fragment of its address, which no server ever sees or logs.

export const MOST_CHARACTERS = 8000; // longer addresses are cut by some programs

export function readAddress() {
  return new URLSearchParams(location.hash.slice(1));
}

// Entries that are empty are left out. False when it would be too long: then it is not written.
export function writeAddress(entries) {
  const known = new URLSearchParams(entries.filter(([, value]) => value !== "" && value !== null && value !== undefined));
  const hash = known.toString();
  if (hash.length > MOST_CHARACTERS) return false;
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  return true;
}
