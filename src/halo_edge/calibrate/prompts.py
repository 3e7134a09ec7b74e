"""What a model is asked when it is calibrated on its own words: varied, in several languages.

Nothing depends on which questions these are, only on that they differ.
"""

from __future__ import annotations

from typing import Final

PROMPTS: Final = (
    "Explain why the sky is blue to a ten-year-old child.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "What are the main causes of inflation?",
    "Write a Python function that returns the n-th Fibonacci number, with tests.",
    "Erkläre in einfachen Worten, wie ein Dieselmotor funktioniert.",
    "Give me a recipe for vegetable soup, step by step.",
    "Summarise the plot of Romeo and Juliet in five sentences.",
    "Écris un courriel poli pour reporter une réunion à la semaine prochaine.",
    "List ten animals that live in the desert and what they eat.",
    "A train leaves at 9:40 and arrives at 13:05. How long does it take? Show your work.",
    "Escribe un poema breve sobre el mar en otoño.",
    "What is the difference between TCP and UDP?",
    "Translate into French: The library opens at nine and closes at six.",
    "Write a shell script that finds the ten largest files below a directory.",
    "Who was Marie Curie, and what did she discover?",
    "请用中文介绍一下长城的历史。",
    "Draft a cover letter for a job as a nurse.",
    "How do I repair a flat bicycle tyre?",
    "日本の四季について短く説明してください。",
    "Name the planets of the solar system with one fact about each.",
    "Write the HTML of a page with a heading, a list and a table.",
    "Discuss the advantages and disadvantages of nuclear power.",
    "Scrivi un dialogo tra due amici che progettano un viaggio.",
    "What should I consider before adopting a dog?",
    "Solve for x: 3x + 7 = 25. Explain each step.",
    "Describe the water cycle.",
    "Write a product description for a waterproof backpack.",
    "What happened in the year 1789 in France?",
    "Explain recursion with an example in C.",
    "Give tips for learning a foreign language.",
    "Write a JSON object that describes a book with author, title, year and tags.",
    "How does a vaccine work?",
    "Opisz krótko, jak działa silnik elektryczny.",
    "Compose a haiku about winter and explain its imagery.",
    "What is the capital of Australia, and why is it not Sydney?",
    "Write a SQL query for the five customers with the highest turnover.",
)
"""Questions, for models that answer."""

OPENINGS: Final = (
    "",
    "The river rises in the mountains north of",
    "In the early nineteenth century,",
    "She closed the door behind her and",
    "Chapter 1\n\n",
    "The film was released in",
    "def ",
    "According to a study published last week,",
    "Der Bahnhof liegt",
    "Il y avait autrefois",
    "Question: ",
    "The species is found in",
    "#include <stdio.h>\n",
    "Dear Sir or Madam,\n\n",
    "The battle began on the morning of",
    "El equipo ganó",
    "1. ",
    "As of the last census, the town had",
    "The song was written by",
    "Abstract. We present",
    '{\n  "name": ',
    "Once upon a time",
    "The regiment was formed in",
    "Breaking news: ",
)
"""Beginnings of texts, to go on with as they stand; the empty one is no beginning at all."""
