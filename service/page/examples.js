// Texts to try, written for this page.

export const EXAMPLES = {
  "a fond review":
    "A small film with a large heart. The two leads are a joy to watch, the jokes land because nobody strains for " +
    "them, and the last ten minutes moved me more than anything I have seen this year.",
  "a weary one":
    "I wanted to like it. The cast is fine, but the script is dull, every scene runs too long, and by the second " +
    "hour I was watching the clock instead of the screen. A waste of a good idea.",
  "a divided one":
    "Not bad at all, though it takes its time: the opening drags, the villain is a cliché, and yet the last act is " +
    "so beautifully shot that I forgave it everything.",
  "odd words":
    "Went in expecting a flop 🍿 and came out grinning.\n\nZorblaxian puppetry, who knew? 👏🏽 Great fun.",
};
