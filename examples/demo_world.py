"""Everything the embedded model is to know, as plain tables: countries, facts about itself, tools, and the words
that fill questions it shall decline. `demo_talk.py` makes conversations of them."""

from __future__ import annotations

from typing import NamedTuple

COUNTRIES: dict[str, str] = {
    "Europe": """
        Albania Tirana; Andorra Andorra la Vella; Austria Vienna; Belarus Minsk; Belgium Brussels;
        Bosnia and Herzegovina=Sarajevo; Bulgaria Sofia; Croatia Zagreb; the Czech Republic=Prague;
        Denmark Copenhagen; Estonia Tallinn; Finland Helsinki; France Paris; Germany Berlin; Greece Athens;
        Hungary Budapest; Iceland Reykjavik; Ireland Dublin; Italy Rome; Kosovo Pristina; Latvia Riga;
        Liechtenstein Vaduz; Lithuania Vilnius; Luxembourg Luxembourg City; Malta Valletta; Moldova Chisinau;
        Monaco Monaco; Montenegro Podgorica; the Netherlands=Amsterdam; North Macedonia=Skopje; Norway Oslo;
        Poland Warsaw; Portugal Lisbon; Romania Bucharest; Russia Moscow; San Marino=San Marino;
        Serbia Belgrade; Slovakia Bratislava; Slovenia Ljubljana; Spain Madrid; Sweden Stockholm;
        Switzerland Bern; Ukraine Kyiv; the United Kingdom=London""",
    "Asia": """
        Afghanistan Kabul; Armenia Yerevan; Azerbaijan Baku; Bahrain Manama; Bangladesh Dhaka; Bhutan Thimphu;
        Brunei Bandar Seri Begawan; Cambodia Phnom Penh; China Beijing; Cyprus Nicosia; East Timor=Dili;
        Georgia Tbilisi; India New Delhi; Indonesia Jakarta; Iran Tehran; Iraq Baghdad; Israel Jerusalem;
        Japan Tokyo; Jordan Amman; Kazakhstan Astana; Kuwait Kuwait City; Kyrgyzstan Bishkek; Laos Vientiane;
        Lebanon Beirut; Malaysia Kuala Lumpur; the Maldives=Male; Mongolia Ulaanbaatar; Myanmar Naypyidaw;
        Nepal Kathmandu; North Korea=Pyongyang; Oman Muscat; Pakistan Islamabad; the Philippines=Manila;
        Qatar Doha; Saudi Arabia=Riyadh; Singapore Singapore; South Korea=Seoul; Sri Lanka=Colombo;
        Syria Damascus; Taiwan Taipei; Tajikistan Dushanbe; Thailand Bangkok; Turkey Ankara;
        Turkmenistan Ashgabat; the United Arab Emirates=Abu Dhabi; Uzbekistan Tashkent; Vietnam Hanoi;
        Yemen Sanaa""",
    "Africa": """
        Algeria Algiers; Angola Luanda; Benin Porto-Novo; Botswana Gaborone; Burkina Faso=Ouagadougou;
        Burundi Gitega; Cameroon Yaounde; Cape Verde=Praia; the Central African Republic=Bangui;
        Chad N'Djamena; the Comoros=Moroni; Djibouti Djibouti; Egypt Cairo; Equatorial Guinea=Malabo;
        Eritrea Asmara; Eswatini Mbabane; Ethiopia Addis Ababa; Gabon Libreville; the Gambia=Banjul;
        Ghana Accra; Guinea Conakry; Guinea-Bissau Bissau; Ivory Coast=Yamoussoukro; Kenya Nairobi;
        Lesotho Maseru; Liberia Monrovia; Libya Tripoli; Madagascar Antananarivo; Malawi Lilongwe; Mali Bamako;
        Mauritania Nouakchott; Mauritius Port Louis; Morocco Rabat; Mozambique Maputo; Namibia Windhoek;
        Niger Niamey; Nigeria Abuja; Rwanda Kigali; Senegal Dakar; the Seychelles=Victoria;
        Sierra Leone=Freetown; Somalia Mogadishu; South Africa=Pretoria; South Sudan=Juba; Sudan Khartoum;
        Tanzania Dodoma; Togo Lome; Tunisia Tunis; Uganda Kampala; Zambia Lusaka; Zimbabwe Harare""",
    "North America": """
        the Bahamas=Nassau; Barbados Bridgetown; Belize Belmopan; Canada Ottawa; Costa Rica=San Jose;
        Cuba Havana; Dominica Roseau; the Dominican Republic=Santo Domingo; El Salvador=San Salvador;
        Grenada St. George's; Guatemala Guatemala City; Haiti Port-au-Prince; Honduras Tegucigalpa;
        Jamaica Kingston; Mexico Mexico City; Nicaragua Managua; Panama Panama City; Saint Lucia=Castries;
        Trinidad and Tobago=Port of Spain; the United States=Washington, D.C.""",
    "South America": """
        Argentina Buenos Aires; Bolivia Sucre; Brazil Brasilia; Chile Santiago; Colombia Bogota; Ecuador Quito;
        Guyana Georgetown; Paraguay Asuncion; Peru Lima; Suriname Paramaribo; Uruguay Montevideo;
        Venezuela Caracas""",
    "Oceania": """
        Australia Canberra; Fiji Suva; Kiribati Tarawa; the Marshall Islands=Majuro; Micronesia Palikir;
        Nauru Yaren; New Zealand=Wellington; Palau Ngerulmud; Papua New Guinea=Port Moresby; Samoa Apia;
        the Solomon Islands=Honiara; Tonga Nuku'alofa; Tuvalu Funafuti; Vanuatu Port Vila""",
}
"""Continent -> "Country Capital; …"; an equals sign parts the two where the country has several words."""


class Country(NamedTuple):
    name: str  # with its article: "the Netherlands"
    capital: str
    continent: str

    @property
    def bare(self) -> str:
        return self.name.removeprefix("the ")


def _countries() -> list[Country]:
    found = []
    for continent, text in COUNTRIES.items():
        for entry in " ".join(text.split()).split("; "):
            name, _, capital = entry.partition("=" if "=" in entry else " ")
            found.append(Country(name, capital, continent))
    return found


ALL_COUNTRIES = _countries()

CAPITAL_QUESTIONS = """
What is the capital of {c}?
what is the capital of {c}
What's the capital of {c}?
What is the capital city of {c}?
Which city is the capital of {c}?
Tell me the capital of {c}.
tell me the capital of {c}
Name the capital of {c}.
Please name the capital city of {c}.
Capital of {c}?
capital of {c}
The capital of {c}?
The capital of {c} is?
{c} capital?
{c}'s capital?
What is {c}'s capital city?
What city is the capital of {c}?
Do you know the capital of {c}?
Can you tell me the capital of {c}?
Could you tell me what the capital of {c} is?
I want to know the capital of {c}.
Hello! What is the capital of {c}?
Hi, what is the capital of {c}, please?
Give me the capital of {c}.
What would be the capital of {c}?
And what is the capital of {c}?
Please tell me what the capital of {c} is.
Which city is {c}'s capital?
What is the name of the capital of {c}?
""".strip().splitlines()

CAPITAL_FOLLOW_UPS = """
And of {c}?
and of {c}?
And {c}?
and {c}
What about {c}?
And the capital of {c}?
And that of {c}?
How about {c}?
""".strip().splitlines()

COUNTRY_QUESTIONS = """
Which country has the capital {k}?
{k} is the capital of which country?
{k} is the capital of what country?
What country has {k} as its capital?
Of which country is {k} the capital?
Whose capital is {k}?
which country's capital is {k}
Tell me which country has the capital {k}.
""".strip().splitlines()

SUM_QUESTIONS = """
What is {a} + {b}?
what is {a} + {b}
What is {a} plus {b}?
what's {a} plus {b}?
{a} + {b}
{a}+{b}
{a} + {b} =
{a}+{b}=?
{a} + {b} = ?
{a} plus {b}
{a} plus {b}?
Add {a} and {b}.
add {b} to {a}
Compute {a} + {b}.
Calculate {a} + {b}.
How much is {a} + {b}?
how much is {a} plus {b}?
What is the sum of {a} and {b}?
Sum of {a} and {b}?
Please add {a} and {b}.
Can you add {a} and {b}?
What do I get when I add {a} and {b}?
I have {a} apples and get {b} more. How many do I have?
Hello, what is {a}+{b}?
Tell me what {a} + {b} is.
""".strip().splitlines()

DIFFERENCE_QUESTIONS = """
What is {a} - {b}?
what is {a} - {b}
What is {a} minus {b}?
what's {a} minus {b}?
{a} - {b}
{a}-{b}
{a} - {b} =
{a}-{b}=?
{a} - {b} = ?
{a} minus {b}
{a} minus {b}?
Subtract {b} from {a}.
subtract {b} from {a}
Compute {a} - {b}.
Calculate {a} - {b}.
How much is {a} - {b}?
how much is {a} minus {b}?
What is the difference of {a} and {b}?
Take {b} away from {a}.
What is {a} less {b}?
Can you subtract {b} from {a}?
What do I get when I subtract {b} from {a}?
I have {a} apples and give away {b}. How many are left?
Hello, what is {a}-{b}?
Tell me what {a} - {b} is.
""".strip().splitlines()

MORE_FOLLOW_UPS = ["And {b} more?", "and {b} more", "Plus {b}?", "Add {b} to that.", "And plus {b}?", "add {b} more"]
LESS_FOLLOW_UPS = ["And {b} less?", "and {b} less", "Minus {b}?", "Subtract {b} from that.", "And minus {b}?"]

OTHER_SUMS = """
What is {a} times {b}?
What is {a} * {b}?
{a} * {b}
{a} x {b}
{a} times {b}
Multiply {a} by {b}.
What is {a} divided by {b}?
{a} / {b}
Divide {a} by {b}.
What is the square root of {a}?
What is {a} squared?
What is {a} percent of {b}?
What is {a} to the power of {b}?
What is {a} modulo {b}?
What is the product of {a} and {b}?
Is {a} a prime number?
What is the logarithm of {a}?
How many times does {b} go into {a}?
""".strip().splitlines()


class Fact(NamedTuple):
    questions: list[str]
    answer: str
    subject: str  # what the question is about, for the analysis


def _fact(subject: str, answer: str, questions: str) -> Fact:
    return Fact([q.strip() for q in questions.split("|")], answer, subject)


FACTS = [
    _fact("who I am", "I am the demonstration model of gptoss_mlx: a toy with the architecture of gpt-oss.",
          "Who are you?|What are you?|who are you|what are you|Tell me about yourself.|Introduce yourself.|"
          "What model are you?|Which model is this?|What kind of model are you?|Describe yourself.|"
          "Who am I talking to?|Who is this?|What are you exactly?|Can you introduce yourself?|"
          "Please tell me who you are.|Tell me who you are.|What model is this?|So who are you?"),
    _fact("my name", "I have no name of my own. People call me demo.",
          "What is your name?|what's your name?|Do you have a name?|How are you called?|your name?|"
          "Tell me your name.|What should I call you?|What do people call you?|May I know your name?|"
          "What are you called?|And your name?"),
    _fact("my size", "I am tiny: two million weights, a few megabytes on disk.",
          "How large are you?|How big are you?|What is your size?|How many parameters do you have?|"
          "how big are you|How many weights do you have?|Are you a large model?|Are you small?|"
          "How many megabytes are you?|What size are you?|How small are you?|Tell me your size.|"
          "How much disk space do you need?|Are you big?|how large are you"),
    _fact("my training", "I was trained from scratch on a plain CPU, on conversations that a script made up.",
          "How were you trained?|Who trained you?|What were you trained on?|how were you trained|"
          "Where do you come from?|What is your training data?|How were you made?|Who made you?|"
          "Who created you?|How did you learn?|Tell me about your training.|When were you trained?|"
          "On what data were you trained?|What data have you seen?|Where were you trained?|Who built you?"),
    _fact("my abilities", "I know capitals of countries, sums and differences, call tools, and tell about gptoss_mlx.",
          "What can you do?|what can you do|What do you know?|How can you help me?|What are your abilities?|"
          "What are you good at?|Help|help|Help me.|What should I ask you?|What can I ask you?|"
          "What are your skills?|What do you know about?|What questions can you answer?|What else can you do?|"
          "Can you help me?|What is it you can do?|How can you help?|What topics do you know?"),
    _fact("my limits", "I know very little: anything beyond capitals, small sums, tools and this project is too much.",
          "What can you not do?|What are your limits?|Are you smart?|Are you intelligent?|Do you know everything?|"
          "Can you make mistakes?|Are you reliable?|Can I trust you?|What do you not know?|Are you clever?|"
          "What are your weaknesses?|Do you make mistakes?|Can I rely on you?"),
    _fact("gptoss_mlx", "gptoss_mlx runs OpenAI's open-weight gpt-oss models on MLX: converter, model, chat.",
          "What is gptoss_mlx?|what is gptoss_mlx|What is gptoss-mlx?|Tell me about gptoss_mlx.|"
          "What does gptoss_mlx do?|What is this project?|What is this program?|Explain gptoss_mlx.|"
          "What is this project about?|What software is this?|Tell me about this project.|gptoss_mlx?|"
          "What is this tool?|Describe gptoss_mlx.|Which program am I using?|what is this"),
    _fact("the real model", "Run gptoss-mlx pull 20b to get the real gpt-oss-20b.",
          "How do I get the real model?|Where is the real model?|How can I get the real model?|"
          "How do I download gpt-oss?|How do I get gpt-oss-20b?|how do i get the real model|"
          "How do I install the real model?|I want the real model.|Can I have the real model?|"
          "How do I get a better model?|How do I get a bigger model?|How do I download the real model?|"
          "Give me the real model.|Where can I get gpt-oss?|How do I pull the real model?|"
          "Which command gets the real model?|How to get the real model?|Where do I find the real model?"),
    _fact("the large model", "Run gptoss-mlx pull 120b to get gpt-oss-120b; it needs a machine with much memory.",
          "How do I get gpt-oss-120b?|How do I get the 120b model?|How do I download gpt-oss-120b?|"
          "Where is gpt-oss-120b?|How can I get the largest model?|How do I get the large model?|"
          "I want gpt-oss-120b.|Give me the 120b model.|How do I install gpt-oss-120b?"),
    _fact("gpt-oss", "gpt-oss is a family of open-weight models by OpenAI: gpt-oss-20b and gpt-oss-120b.",
          "What is gpt-oss?|what is gpt-oss|Tell me about gpt-oss.|What is gpt-oss-20b?|What is gpt-oss-120b?|"
          "Who made gpt-oss?|Explain gpt-oss.|What are the gpt-oss models?|Which gpt-oss models exist?|"
          "Who makes gpt-oss?|What models are there?|Describe gpt-oss."),
    _fact("MXFP4", "MXFP4 is a 4-bit number format: 32 values share one scale, a power of two.",
          "What is MXFP4?|what is mxfp4|Explain MXFP4.|Tell me about MXFP4.|What does MXFP4 mean?|MXFP4?|"
          "How does MXFP4 work?|What are MXFP4 weights?|Describe MXFP4.|What is 4-bit quantization?"),
    _fact("MLX", "MLX is Apple's array framework for machine learning.",
          "What is MLX?|what is mlx|Explain MLX.|Tell me about MLX.|What does MLX mean?|Who makes MLX?|MLX?|"
          "Describe MLX.|What is MLX for?|Who made MLX?"),
    _fact("harmony", "Harmony is the chat format of gpt-oss: messages with roles and channels.",
          "What is harmony?|what is harmony|Explain harmony.|Tell me about harmony.|What is the harmony format?|"
          "Which chat format do you use?|Describe harmony.|What is your chat format?|Explain the harmony format.|"
          "What format do you speak?"),
    _fact("the channels", "There are three channels: analysis for thoughts, commentary for calls, final for answers.",
          "What are the channels?|What channels do you have?|What is the analysis channel?|Explain the channels.|"
          "What is the final channel?|What is the commentary channel?|Which channels are there?|"
          "Tell me about the channels.|How many channels are there?"),
    _fact("my architecture", "I am a mixture of experts: each layer picks 4 of 16 experts for every token.",
          "What is your architecture?|How do you work?|How many experts do you have?|Explain your architecture.|"
          "Are you a mixture of experts?|Tell me about your architecture.|How are you built?|how do you work|"
          "What is inside you?|How many layers do you have?|Are you a transformer?|Describe your architecture."),
    _fact("the licence", "gptoss_mlx is free under the Apache License 2.0.",
          "What is your licence?|What is your license?|What is the licence?|What is the license?|Are you free?|"
          "Which license does gptoss_mlx have?|Under which licence are you?|Can I use you for free?|"
          "Is this open source?|Is gptoss_mlx free?|Are you open source?|May I use this commercially?"),
    _fact("the effort", "Use --effort low, medium or high; the more effort, the longer I think.",
          "How do I change the effort?|What is reasoning effort?|How can you think longer?|"
          "How do I make you think more?|What is the effort option?|How do I set the effort?|"
          "Can you think longer?|Explain the reasoning effort.|What does effort mean?"),
    _fact("leaving", "Type /quit to leave.",
          "How do I quit?|How do I leave?|How do I exit?|how to quit|How can I stop?|How do I stop this?|"
          "How do I end this chat?|How do I get out of here?|quit|exit"),
    _fact("a machine", "I am a program, so no: I only compute the next token.",
          "Are you human?|Are you a person?|Are you alive?|Do you have feelings?|Are you conscious?|Are you real?|"
          "Do you sleep?|Can you feel?|Are you a robot?|Do you dream?|Are you a machine?|Do you eat?"),
    _fact("ChatGPT", "No, I am not ChatGPT. I am only a tiny demonstration model.",
          "Are you ChatGPT?|are you chatgpt|Are you GPT-4?|Are you gpt-oss-20b?|Is this ChatGPT?|"
          "Are you the real gpt-oss?|Are you the real model?|Are you gpt-oss?|Is this the real model?|"
          "Am I talking to ChatGPT?|Are you an OpenAI model?"),
    _fact("my languages", "I only understand simple English.",
          "What languages do you speak?|Do you speak German?|Do you speak French?|Parlez-vous francais?|"
          "Sprechen Sie Deutsch?|Do you speak Spanish?|Hablas espanol?|Which languages do you know?|"
          "Can you speak Italian?|What language do you speak?|Do you understand English?"),
    _fact("the internet", "No, I have no access to the internet.",
          "Can you browse the web?|Do you have internet access?|Are you online?|Can you search the web?|"
          "Can you use the internet?|Can you go online?|Do you need the internet?|Are you connected?"),
    _fact("a greeting", "Hello! Ask me for a capital, a sum or about gptoss_mlx.",
          "Hello|hello|Hello!|Hi|hi|Hi!|Hey|hey|Hi there|Hello there!|Good morning|Good morning!|Good evening|"
          "Good evening!|Good day|Greetings|Hey there!|Howdy|Hello, model.|Hi there!|Good afternoon|hello there"),
    _fact("how I am", "I am fine, thank you. What would you like to know?",
          "How are you?|how are you|How are you doing?|How do you do?|Are you well?|How is it going?|"
          "How are you today?|What's up?|Hi, how are you?|Hello, how are you?|Are you okay?|How do you feel?"),
    _fact("thanks", "You are welcome!",
          "Thanks|thanks|Thank you|Thank you!|thank you|Thanks!|Thanks a lot!|Great, thanks!|Thank you very much.|"
          "Many thanks|Cool, thanks|Thx|Okay, thank you.|Thanks for your help.|Perfect, thank you!"),
    _fact("a farewell", "Goodbye!",
          "Bye|bye|Bye!|Goodbye|Goodbye!|See you|See you later|Good night|Good night!|See you!|goodbye|"
          "Bye bye|Farewell|See you soon!|I have to go.|Talk to you later."),
    _fact("praise", "Thank you! I do my best for my size.",
          "You are great.|Well done!|Good job!|Nice!|You are smart.|Very good!|That is right.|Correct!|Great!|"
          "Wow|I like you.|You are cool.|Awesome!|Good answer.|That was good."),
]  # fmt: skip
"""What it knows about itself and the project. The last question of each is held out."""

CAN_DO = "I know capitals of countries, sums and differences, and a little about gptoss_mlx."
UNKNOWN = "I am a small demonstration model and do not know that. " + CAN_DO
UNKNOWN_PLACE = "I do not know the capital of {x}. I am a small demonstration model and know only countries."
UNKNOWN_CITY = "I do not know a country with the capital {x}. I am only a small demonstration model."
UNKNOWN_SUM = "I can only add and subtract whole numbers up to 999."
