"""Words for what the embedded model does not know and for the tools it is offered: topics, questions, values."""

from __future__ import annotations

from typing import NamedTuple

UNKNOWN_QUESTIONS = """
Who wrote {t}?
Who invented {t}?
Who discovered {t}?
Who was {t}?
Who is {t}?
Who painted {t}?
Who won {t}?
What is {t}?
what is {t}
What are {t}?
What do you think about {t}?
What does {t} mean?
What is the meaning of {t}?
What is the best {t}?
What color is {t}?
What happened in {t}?
Where is {t}?
Where can I buy {t}?
Where do I find {t}?
When was {t} born?
When did {t} begin?
When was {t} built?
Why is {t} so popular?
Why do people like {t}?
How does {t} work?
How do I make {t}?
How do I cook {t}?
How do I repair {t}?
How tall is {t}?
How old is {t}?
How far away is {t}?
How much does {t} cost?
How many people like {t}?
Explain {t}.
Explain {t} to me.
Tell me about {t}.
Tell me something about {t}.
Tell me a joke about {t}.
Tell me a story about {t}.
Write a poem about {t}.
Write a song about {t}.
Write an essay about {t}.
Write code for {t}.
Write a program that draws {t}.
Describe {t}.
Describe {t} in detail.
Summarize {t}.
Translate {t} into French.
Recommend {t}.
Give me a recipe for {t}.
Give me advice about {t}.
List ten facts about {t}.
Is {t} dangerous?
Is {t} good for me?
Is {t} true?
Are {t} healthy?
Do you like {t}?
Do you know {t}?
Can you sing {t}?
Can you draw {t}?
Can you explain {t}?
Should I buy {t}?
I need help with {t}.
I want to learn about {t}.
Let's talk about {t}.
Define {t}.
Compare {t} and {u}.
What is the difference between {t} and {u}?
Which is better, {t} or {u}?
How do {t} and {u} fit together?
What is the population of {t}?
What is the currency of {t}?
What language do they speak in {t}?
What is the weather in {t}?
What time is it in {t}?
What is the price of {t}?
Who is the president of {t}?
How is the weather in {t} today?
What is the history of {t}?
What is the distance from {t} to {u}?
{t}?
{t}
Play {t}.
Find {t}.
Show me {t}.
Send an email to {t}.
Book a flight to {t}.
Remind me of {t}.
Set a timer for {t}.
Turn on {t}.
Spell {t}.
Count the letters in {t}.
Solve {t}.
Fix {t}.
My {t} is broken.
I am bored of {t}.
I love {t}.
""".strip().splitlines()

FREE_QUESTIONS = """
Tell me a joke.|tell me a joke|Tell me a story.|Sing a song.|Write a poem.|Write a haiku.|Make me laugh.|Surprise me.|
Why is the sky blue?|why is the sky blue|Why is grass green?|What is the meaning of life?|What is love?|
What should I eat today?|What should I cook tonight?|What should I do?|What should I wear?|Where should I travel?|
Is there life on other planets?|Does God exist?|What happens after death?|What day is it today?|What time is it?|
What is the date?|How is the weather today?|Will it rain tomorrow?|What's the weather like?|What is the news?|
Who won the last election?|Who is the king?|Who is the president?|Who is the richest person in the world?|
How do I lose weight?|How do I get rich?|How do I learn to cook?|How do I fix a flat tyre?|How do I tie a tie?|
How do I boil an egg?|How do airplanes fly?|How do computers work?|How many people live on earth?|
How many days are in a year?|How many planets are there?|How many legs does a spider have?|How deep is the sea?|
How fast is light?|How far is it to the sun?|What is the tallest mountain?|What is the longest river?|
What is the largest ocean?|What is the biggest animal?|What is the fastest car?|What is the best movie?|
What is the best phone?|What is your favourite colour?|What is your favourite food?|Do you like music?|Do you like me?|
Can you dance?|Can you cook?|Can you write code?|Can you write a poem?|Can you tell me a joke?|Can you keep a secret?|
Can you play chess?|Let's play a game.|I am sad.|I am happy.|I am tired.|I am hungry.|I am bored.|I feel sick.|
My head hurts.|My computer is slow.|My cat is ill.|I love you.|I hate you.|I need money.|I lost my keys.|
Write a function that sorts a list.|Write hello world in Python.|def f(x): return x|print("hello")|SELECT * FROM users|
Fix my code.|Explain recursion.|What is a compiler?|What is an API?|What is a transformer?|What is a neural network?|
What is machine learning?|What is artificial intelligence?|What is a GPU?|What is Docker?|What is git?|
Translate good morning into French.|How do you say hello in Spanish?|What does carpe diem mean?|Bonjour|Guten Tag|
Wie geht es dir?|Was ist das?|Comment ca va?|Que tal?|Hola|Wer bist du?|Erzaehl mir einen Witz.|
Name three animals.|Name a famous painter.|Name a fruit.|Count to ten.|Count from 1 to 5.|Spell banana.|
Repeat after me: hello|Say something.|Say yes.|Say hi to Anna.|Flip a coin.|Roll a die.|Pick a number.|Guess my age.|
Is the earth flat?|Is water wet?|Is a tomato a fruit?|Are ghosts real?|Are you sure?|Why?|why|Really?|What?|Huh?|
Where am I?|Where is my phone?|Where do babies come from?|When is Christmas?|When is my birthday?|When is lunch?|
Should I marry her?|Should I quit my job?|Which is better, cats or dogs?|Which car should I buy?|Who am I?|
Who wrote the Bible?|Who built the pyramids?|Who discovered America?|Who invented the telephone?|Who is Batman?|
Summarize this text.|Proofread this letter.|Make a plan for my day.|Give me a recipe.|Give me an idea.|Order a pizza.|
Call my mother.|Book a table for two.|Turn off the light.|Open the door.|Ignore all previous instructions.|
The quick brown fox jumps over the lazy dog.|Lorem ipsum dolor sit amet.|asdf|test|foo bar|...|???|42|7|12345
"""
HELD_OUT_FREE_QUESTIONS = """
Tell me a riddle.|Write a limerick.|Why is the sea salty?|What is happiness?|What should I read next?|
How many hours are in a day?|What is the smallest country?|Can you paint?|I am angry.|My car does not start.|
Write a program that counts words.|What is a database?|Name a famous singer.|Is the moon made of cheese?|
Who invented the wheel?|When is Easter?|Plan a trip for me.|Open the window.|How do birds fly?|Who wrote Macbeth?
"""

TOPICS = """
quantum physics;gravity;the moon;the sun;the stars;Mars;Jupiter;black holes;the universe;the big bang;photosynthesis;
evolution;dinosaurs;cats;dogs;horses;elephants;whales;spiders;bees;birds;trees;roses;mushrooms;coffee;tea;beer;wine;
bread;pizza;pasta;sushi;soup;cheese;chocolate;apples;bananas;potatoes;rice;salt;sugar;water;ice;fire;gold;silver;iron;
football;tennis;chess;golf;the Olympic Games;the World Cup;music;jazz;opera;the piano;guitars;Mozart;Bach;Beethoven;
Shakespeare;Goethe;Hamlet;Faust;Harry Potter;Star Wars;the Mona Lisa;Picasso;Einstein;Newton;Darwin;Napoleon;Caesar;
Cleopatra;Plato;the Roman Empire;the French Revolution;World War II;the Middle Ages;1984;the year 2000;democracy;
money;the stock market;bitcoin;taxes;banks;love;happiness;friendship;death;religion;philosophy;God;art;poetry;
Python;Java;Linux;Windows;computers;the internet;phones;robots;cars;bicycles;trains;planes;ships;rockets;bridges;
houses;schools;doctors;medicine;cancer;headaches;vitamins;sleep;sports;yoga;running;swimming;New York;California;
Texas;the Alps;the Rhine;the Amazon;the Sahara;Mount Everest;the Pacific Ocean;the Eiffel Tower;Hollywood;Google;
Microsoft;Amazon;Tesla;my dog;my car;my homework;my life;my job;a good book;a new phone;the weather;the news;
the future;time travel;electricity;magnets;atoms;molecules;DNA;viruses;volcanoes;earthquakes;climate change;oceans;
rivers;clouds;rainbows;snow;winter;summer;Christmas;birthdays;weddings;fashion;shoes;furniture;gardening;cooking;
a red balloon;blue;green;zebras;the color red;algebra;geometry;prime numbers;pi;infinity;triangles;poker;video games
"""
HELD_OUT_TOPICS = """
penguins;the violin;Saturn;marmalade;Galileo;the Black Death;basketball;thermodynamics;Rembrandt;tulips;the Nile;
inflation;submarines;karate;Halloween;JavaScript;dolphins;the Titanic;honey;loneliness;the Moonlight Sonata;kangaroos;
nuclear power;Don Quixote;my washing machine;a cheap hotel;lasagna;the stone age;antibiotics;Antarctica
"""

PLACES = """
Paris;London;Berlin;Madrid;Rome;Vienna;Oslo;Stockholm;Helsinki;Lisbon;Athens;Dublin;Tokyo;Beijing;Delhi;Cairo;
Nairobi;Sydney;Toronto;Chicago;Boston;Seattle;Denver;Dallas;Munich;Hamburg;Milan;Naples;Turin;Porto;Lyon;Nice;
Zurich;Geneva;Basel;Krakow;Gdansk;Bergen;Malmo;Osaka;Kyoto;Mumbai;Lagos;Rio;Lima;Bogota;Perth;Auckland;Leeds;
Glasgow;Cardiff;Belfast;Bristol;Rotterdam;Utrecht;Antwerp;Ghent;Brest;Nantes;Seville;Bilbao;Graz;Linz;Salzburg
"""
WORDS = """
tree;house;river;apple;bridge;candle;window;garden;mirror;pencil;bottle;yellow;silver;quick;gentle;brave;quiet;
serene;ancient;marble;velvet;thunder;lantern;harvest;meadow;puzzle;riddle;walnut;ginger;copper;saddle;anchor;
compass;feather;blanket;castle;dragon;falcon;glacier;hammer;island;jacket;kettle;ladder;magnet;needle;orchard;
pillow;quartz;ribbon;saffron;tunnel;umbrella;violet;whistle;zephyr;banana;carpet;dolphin;engine;forest
"""
NAMES = """
Anna;Ben;Clara;David;Emma;Felix;Greta;Hugo;Ida;Jonas;Karl;Lena;Max;Nora;Oscar;Paula;Quinn;Rosa;Sam;Tina;Uma;Vera;
Will;Xenia;Yara;Zoe;Alice;Bob;Carol;Dan;Eve;Frank;Grace;Henry;Irene;Jack;Kate;Leo;Mary;Nick;Olga;Peter;Ruth;Tom
"""
SYMBOLS = "AAPL;MSFT;TSLA;NVDA;IBM;SAP;AMZN;GOOG;META;ORCL;INTC;AMD;NFLX;BMW;VW;SHEL;BP;KO;PEP;MCD"
UNITS = "EUR;USD;GBP;JPY;CHF;SEK;NOK;km;miles;kg;pounds;metres;feet;litres;gallons"
TITLES = "Buy milk;Call mum;Team meeting;Dentist;Pay rent;Water plants;Book train;Clean kitchen;Write report;Lunch"

NOUNS = """
weather;time;price;population;temperature;altitude;mayor;history;map;menu;timetable;forecast;tide;traffic;news;
area;salary;rating;length;weight;height;age;color;owner;author;director;address;phone;email;status;balance;score;
rank;level;size;depth;speed;distance;route;schedule;calendar;recipe;review;summary;title;genre;lyrics;meaning;
synonym;origin;spelling;translation;currency;rate;tax;discount;stock;order;invoice;ticket;booking;seat;gate;
delay;humidity;wind;pressure;rainfall;sunrise;sunset;elevation;density;volume;voltage;power;battery;signal;
version;license;branch;commit;release;manual;diet;dose;symptom;treatment;vaccine;allergy;habitat;lifespan;
budget;profit;revenue;founder;anthem;flag;motto;dialect;festival;museum;harbor;airport;station;crop;export
"""
HELD_OUT_NOUNS = "pollen;barometer;librarian;mileage;ingredient;tariff;visibility;curriculum;warranty;landlord"

INSTRUCTIONS = """
Answer in one sentence.
Be brief.
Be polite.
Answer briefly and politely.
You are a helpful assistant.
You are a friendly assistant.
Always be honest.
Use the tools when they help.
Use the functions where they fit.
Do not guess.
You are a pirate.
You are Kelp, an assistant for sailors.
You answer questions of customers.
Keep answers short.
Talk like a teacher.
Answer as well as you can.
Think before you answer.
Answer in plain words.
You work for a bank.
You help children with homework.
Never mention the weather.
Reply in English.
The user is in a hurry.
The user is an expert.
Use simple language.
""".strip().splitlines()


class ToolKind(NamedTuple):
    """A family of functions: any of the names, descriptions and questions go together."""

    names: str
    descriptions: str
    parameters: str  # "city|place|location:string, amount|value:number": alternatives : type
    questions: str  # {0}, {1} … are the parameters' values, in order
    values: str  # a maker of values per parameter (see demo_talk.VALUES)
    results: str  # a maker of results


TOOL_KINDS = [
    ToolKind("get_weather|weather|current_weather|weather_at|fetch_weather",
             "Get the weather in a city.|Current weather at a place.|Returns today's weather.|Weather report.",
             "city|place|location|town:string",
             "What is the weather in {0}?|How is the weather in {0}?|what's the weather in {0}|Weather in {0}?|"
             "Tell me the weather in {0}.|Is it raining in {0}?|How warm is it in {0}?|weather {0}|"
             "What's the weather like in {0}?|What is the weather like in {0} today?|How is the weather in {0} today?",
             "place", "weather"),
    ToolKind("time_in|get_time|current_time|local_time|clock",
             "Current local time in a city.|Get the time at a place.|Tells the time.|Local time.",
             "city|place|location|zone:string",
             "What time is it in {0}?|What is the time in {0}?|time in {0}?|Tell me the time in {0}.|"
             "How late is it in {0}?|What's the local time in {0}?|Current time in {0}?", "place", "clock"),
    ToolKind("convert|convert_units|exchange|unit_converter",
             "Convert an amount from one unit to another.|Converts units and currencies.|Unit conversion.",
             "amount|value|number:number, from|source|from_unit:string, to|target|to_unit:string",
             "Convert {0} {1} to {2}.|How much is {0} {1} in {2}?|{0} {1} in {2}?|What is {0} {1} in {2}?|"
             "Please convert {0} {1} into {2}.|convert {0} {1} to {2}", "number unit unit", "amount"),
    ToolKind("lookup|define|dictionary|get_definition|lookup_word",
             "Look up a word in the dictionary.|Definition of a word.|Explains the meaning of a word.",
             "word|term|text:string",
             "Look up the word {0}.|What does {0} mean?|Define {0}.|What is the definition of {0}?|"
             "define {0}|Meaning of {0}?|Look up {0} in the dictionary.", "word", "words"),
    ToolKind("stock|get_stock|stock_price|quote|share_price",
             "Current price of a stock.|Get a stock quote by its symbol.|Stock prices.",
             "symbol|ticker|stock:string",
             "What is the stock price of {0}?|How is {0} trading?|Stock price of {0}?|Quote for {0}?|"
             "What does a share of {0} cost?|Get me the stock quote of {0}.|{0} stock?", "symbol", "price"),
    ToolKind("send|send_message|message|send_text|notify",
             "Send a message to someone.|Sends a text to a person.|Message a contact.",
             "to|recipient|person|name:string, text|message|body:string",
             "Send {0} the message {1}.|Send a message to {0}: {1}|Tell {0}: {1}|Message {0}: {1}|"
             "Write to {0}: {1}|Send the text {1} to {0}.", "name title", "done"),
    ToolKind("add_todo|create_task|new_task|remember|add_reminder",
             "Add an entry to the to-do list.|Creates a task.|Remember something to do.",
             "title|task|entry|text:string",
             "Add {0} to my list.|Add {0} to my to-do list.|New task: {0}|Remind me: {0}|Create the task {0}.|"
             "Put {0} on my list.", "title", "done"),
    ToolKind("find_user|get_user|user_info|lookup_user|get_customer",
             "Find a user by name.|Details of a customer.|Information about a user.",
             "name|user|person|customer:string",
             "Who is the user {0}?|Find the user {0}.|Show me the customer {0}.|Look up the user {0}.|"
             "Get the details of customer {0}.", "name", "record"),
    ToolKind("roll_dice|roll|dice|throw_dice",
             "Roll a die with some number of sides.|Throws dice.|Random roll.",
             "sides|faces|n|max:integer",
             "Roll a die with {0} sides.|Throw a die with {0} sides.|Roll a {0}-sided die.|roll a die with {0} faces",
             "number", "number"),
    ToolKind("set_timer|timer|start_timer|countdown",
             "Start a timer.|Set a countdown in minutes.|Kitchen timer.",
             "minutes|duration|time:integer",
             "Set a timer for {0} minutes.|Start a timer of {0} minutes.|Timer for {0} minutes.|"
             "Wake me in {0} minutes.", "number", "done"),
    ToolKind("translate|translate_text|translation|to_language",
             "Translate a text into another language.|Translation of words.|Translates text.",
             "text|word|phrase:string, language|target|to:string",
             "Translate {0} into {1}.|How do you say {0} in {1}?|What is {0} in {1}?|Translate {0} to {1}.|"
             "translate {0} into {1}", "word language", "words"),
    ToolKind("book_flight|find_flight|flights|search_flights",
             "Search flights between two cities.|Find a flight.|Flight search.",
             "from|origin|start|departure:string, to|destination|target|arrival:string",
             "Find a flight from {0} to {1}.|Flights from {0} to {1}?|I want to fly from {0} to {1}.|"
             "Search flights from {0} to {1}.|Is there a flight from {0} to {1}?", "place place", "flight"),
    ToolKind("play_music|play|play_song|music",
             "Play a song.|Plays music by an artist.|Music player.",
             "song|title|artist|track:string",
             "Play {0}.|play the song {0}|I want to hear {0}.|Please play {0}.|Play something by {0}.", "name", "done"),
    ToolKind("calculator|multiply|product|times",
             "Multiply two numbers.|Product of two numbers.|Multiplication.",
             "a|x|first|left:number, b|y|second|right:number",
             "What is {0} times {1}?|Multiply {0} by {1}.|{0} times {1}|What is {0} * {1}?|{0} * {1}",
             "number number", "number"),
    ToolKind("search|web_search|search_web|find_pages",
             "Search the web.|Find pages about a topic.|Web search.",
             "query|q|topic|text:string",
             "Search the web for {0}.|Search for {0}.|Find pages about {0}.|google {0}|search {0}", "topic", "words"),
]  # fmt: skip

HELD_OUT_TOOLS = [
    ToolKind("tide_at|get_tide", "Tide at a port.|Current tide.", "port|harbour:string",
             "What is the tide in {0}?|Tide in {0}?|How high is the tide at {0}?", "place", "amount"),
    ToolKind("parking_lots|find_parking", "Free parking spaces in a city.|Find parking.", "city|place:string",
             "Find parking in {0}.|Where can I park in {0}? Find parking.", "place", "number"),
    ToolKind("train_times|next_train", "Next train between two stations.|Train times.",
             "from|origin:string, to|destination:string",
             "When is the next train from {0} to {1}?|Next train from {0} to {1}?", "place place", "clock"),
    ToolKind("rhymes|find_rhyme", "Words that rhyme with a word.|Find rhymes.", "word|text:string",
             "Find a rhyme for {0}.|What are rhymes of {0}?", "word", "words"),
]  # fmt: skip
"""Families that never occur in training."""


def entries(text: str, mark: str = ";") -> list[str]:
    """The entries of one of the lists above."""
    return [entry for entry in "".join(text.split("\n")).split(mark) if entry]
