"""Lists of nouns, adjectives and verbs for the offline parser and linker: no model, no data file (our design)."""

COLOURS = frozenset(
    "red green blue yellow white black brown grey gray orange purple pink cyan magenta golden gold silver "
    "beige turquoise violet tan".split()
)
ADJECTIVES = COLOURS | frozenset(
    "small large big little tiny huge tall short long old young new wooden metal plastic striped plain shiny "
    "matte medium round square empty full dirty clean wet dry hot cold dark bright open closed narrow wide "
    "thick thin deep shallow broad flat steep high low heavy light fat slim slender skinny chubby lean giant "
    "enormous massive gigantic great mini miniature long-haired short-haired happy sad angry calm tired "
    "sleepy hungry thirsty scared afraid proud shy brave busy lazy bored excited surprised curious playful "
    "friendly lovely cute pretty beautiful handsome ugly nice good bad fine fancy elegant modern ancient "
    "antique rusty dusty muddy sandy grassy snowy icy foggy cloudy sunny rainy windy stormy misty hazy clear "
    "warm cool frozen fresh ripe rotten raw cooked sweet sour bitter spicy soft hard rough smooth sharp "
    "blunt fluffy furry hairy bald curly straight crooked fuzzy woolly silky shaggy bushy bare naked "
    "barefoot blond blonde brunette pale tan reddish bluish greenish yellowish whitish grayish colorful "
    "colourful transparent opaque spotted dotted checkered chequered plaid patterned floral wrinkled torn "
    "broken cracked damaged worn crowded loud quiet silent noisy fast slow quick strong weak sick healthy "
    "dead alive asleep awake alone lonely single double twin wild tame domestic stray male female elderly "
    "teenage adult local foreign public private main royal holy rich poor cheap expensive famous popular "
    "rare common usual strange weird funny silly serious gentle fierce mean kind polite rude smart clever "
    "dangerous safe dim shady leafy rocky stony mossy hilly mountainous wavy choppy glossy dull vivid "
    "vibrant neon metallic stainless leather woolen cotton silk denim velvet ceramic marble brick concrete "
    "glassy crystal oval rectangular triangular circular spherical curved pointed pointy visible invisible "
    "hidden bigger smaller larger taller shorter longer older younger biggest smallest largest tallest "
    "shortest longest oldest youngest front rear upper lower inner outer middle tasty delicious greasy "
    "sticky slippery shaved bearded overcast abandoned deserted vacant upright vertical horizontal sturdy "
    "fragile delicate tidy messy neat ornate rustic quaint majestic grumpy cheerful joyful nervous upset "
    "worried stern identical similar different same other ready close near available able lit wooded open- "
    "air upside-down old-fashioned well-dressed purplish maroon teal navy lavender crimson scarlet indigo "
    "ivory cream bronze copper dark-haired tangled loose tight steady shut lush bleak mature juicy crisp "
    "crispy crunchy creamy foamy frothy bubbly steaming soaked drenched tattered ragged weathered polished "
    "unpainted unfinished unripe unhappy unusual uneven untidy lit-up sunlit moonlit golden-brown".split()
)
# Adjectives that are also nouns: as the last open word of a phrase they are its name ("an orange and a banana").
NOUNISH = frozenset(
    "orange metal plastic square round glass gold silver leather silk cotton denim velvet marble brick "
    "concrete crystal adult female male light front middle cream bronze copper violet oval kind twin twins "
    "public navy plain stripe lavender ivory local tan single double lean rose cool".split()
)
# Endings that make an adjective of a word in no list.
ADJECTIVE_ENDINGS = (
    "ful", "less", "ous", "ish", "able", "ible", "ive", "ic", "esque", "some", "like", "y", "ant", "ent", "al", "ary",
)  # fmt: skip
# What a verb says of its subject as "is" does ("the sky looks dark").
COPULAR = frozenset(
    "look seem appear become feel remain stay get turn grow smell taste sound keep stand lie sit".split()
)
# Verbs that lend their subject to the verb behind them ("starts to run", "enjoys playing").
CATENATIVE = frozenset(
    "try start begin continue keep seem appear want like love enjoy go hate prefer attempt learn need "
    "prepare come help manage decide plan wish hope happen".split()
)

# Measures, containers and groups: "of" behind one of them joins ("a cup of coffee"), behind other nouns it ties.
MEASURES = frozenset(
    "cup glass mug bottle bowl plate slice piece pair group bunch herd flock pack pile stack row box bag "
    "basket can jar bucket set lot lots crowd couple team school swarm bouquet bundle loaf sheet bit handful "
    "kind type sort packet carton tray pot pitcher jug barrel crate sack tank truckload line cluster "
    "collection number dozen dozens hundreds thousands pride litter gaggle fleet heap mound clump patch body "
    "layer block bar ball scoop spoonful pinch drop stick roll tube tub gallon pint liter litre cloud range "
    "field series variety assortment selection stream plateful half part".split()
)
# Pictures of something: what stands behind "of" is not where the picture is.
DEPICTIONS = frozenset(
    "painting picture photo photograph drawing statue portrait image poster sculpture model map".split()
)
# What is held while something is done: "with" ties it to who does it, not to what it is done to.
TOOLS = frozenset(
    "fork knife spoon hose brush stick hand camera racket racquet bat rope hammer net spear broom towel pen "
    "pencil chopsticks shovel axe saw scissors sword bow rag cloth sponge mop rake phone tool tongs spatula "
    "whip cane paintbrush finger beak paw mouth teeth tongue claw foot leash stroller friend umbrella trunk".split()
)
# What one wears: "in" ties it to its wearer.
CLOTHES = frozenset(
    "hat cap shirt t-shirt dress coat jacket suit skirt pants jeans trousers shorts shoe boot glove scarf "
    "tie uniform helmet glasses sunglasses sweater vest robe gown costume hoodie blouse apron sock sandal "
    "mask outfit clothes swimsuit bikini wetsuit jersey tuxedo".split()
)

# Words for things that move by themselves: a bare verb form after one of these is a verb, not half a compound noun.
HYPONYMS: dict[str, frozenset[str]] = {
    "person": frozenset(
        "man woman boy girl child kid baby guy lady gentleman player surfer skier skater rider worker chef "
        "cook teenager toddler adult student police officer snowboarder skateboarder crowd couple batter "
        "catcher pitcher nurse doctor teacher farmer dancer singer painter artist mechanic firefighter "
        "soldier sailor mailman postman policeman policewoman waiter waitress fisherman gardener carpenter "
        "hunter cowboy cyclist biker runner jogger athlete musician guitarist drummer pianist violinist "
        "actor actress clown magician king queen prince princess knight bride groom wife husband mother "
        "father mom dad mum brother sister son daughter uncle aunt grandmother grandfather grandma grandpa "
        "friend neighbor neighbour driver pilot captain passenger tourist hiker climber swimmer diver "
        "photographer reporter judge lawyer priest monk nun baker butcher barber tailor plumber electrician "
        "builder engineer scientist vendor seller shopper customer owner keeper trainer coach referee "
        "goalkeeper goalie fan teammate boss guard thief pedestrian someone somebody everyone shepherd boxer "
        "wrestler golfer bowler juggler acrobat gymnast surgeon dentist pirate witch wizard parent "
        "grandparent twin newborn audience family bartender cashier janitor librarian maid".split()
    ),
    "animal": frozenset(
        "dog cat horse cow sheep bird bear elephant giraffe zebra lion tiger puppy kitten duck goat monkey "
        "pig chicken rabbit fish deer mouse rat squirrel fox wolf bull calf lamb foal pony donkey mule camel "
        "llama ox buffalo bison moose elk goose swan pigeon dove crow raven owl eagle hawk falcon parrot "
        "penguin seagull gull flamingo peacock turkey rooster hen chick ostrich turtle tortoise frog toad "
        "snake lizard crocodile alligator shark whale dolphin seal otter beaver raccoon skunk bat hedgehog "
        "panda koala kangaroo leopard cheetah jaguar panther hippo rhino gorilla chimpanzee ape bee "
        "butterfly spider ant crab lobster octopus kid-goat pup poodle bulldog hound insect dragon unicorn "
        "sparrow robin woodpecker hummingbird stork heron crane pelican hamster ferret dragonfly salmon "
        "trout".split()
    ),
    "vehicle": frozenset(
        "car bus truck train boat ship airplane bicycle motorcycle van taxi scooter tram helicopter tractor "
        "ferry sailboat jeep ambulance canoe jet rocket submarine yacht limousine firetruck bulldozer "
        "trolley".split()
    ),
}
SYNONYMS: tuple[frozenset[str], ...] = tuple(
    frozenset(group.split())
    for group in (
        "man guy gentleman male", "woman lady female", "person people human", "child kid", "baby infant toddler",
        "bicycle bike", "motorcycle motorbike", "car automobile", "couch sofa", "phone cellphone telephone smartphone",
        "television tv", "boat ship", "airplane plane aeroplane aircraft jet", "puppy dog", "kitten cat",
        "street road", "sea ocean", "grass lawn", "rug carpet", "bag handbag purse", "cup mug",
        "picture photo painting image",
        "glasses eyeglasses spectacles", "sunglasses shades", "hat cap", "shirt t-shirt tshirt",
        "trousers pants", "mountain hill", "forest woods", "rock stone", "racket racquet", "soccer football",
        "circle disc disk", "cube box", "sphere ball",
    )
)  # fmt: skip
MOVERS = frozenset({"person", "people", "animal", "human", "vehicle", "plane", "bike"}).union(*HYPONYMS.values())

# Verbs without an object: their past form behind a noun is a clause's verb, their -ing form before one describes it.
INTRANSITIVE = frozenset(
    "run sit stand sleep lie bark smile laugh cry jump walk swim fall rise shine wait crawl kneel dance sing "
    "yawn nap doze rest glow bloom blossom float drift flow howl roar snore soar wander stroll jog sprint "
    "gallop trot hop limp march come go arrive emerge appear vanish sigh scream yell shout shiver tremble "
    "sway ring gleam bow stay look squat lean skate ski surf skateboard snowboard fly graze perch hover hang "
    "stare gaze bend chirp quack meow purr growl hiss buzz hum moo wag waddle whistle frown grin nod wink "
    "pose relax recline pray sink melt burn boil steam smoke spin rotate bounce slide roll tumble stumble "
    "collapse sunbathe frolic stretch gather cheer applaud weep sob dive leap travel die wilt wither camp "
    "hike play work live talk chat shop glide flap creep dart dash hurry rush scurry scamper prowl roam "
    "strut trudge tiptoe topple".split()
)
VERBS = INTRANSITIVE | frozenset(
    "adjust aim answer approach arrange ask attach bake balance bark bat bend bite blow board bounce bow box "
    "break brush build burn buy call carry carve catch celebrate chase check chew clap clean climb close "
    "collect collide come comb contain cook count cover crawl cross cry cuddle cut dance decorate deliver "
    "dig dip direct dive do drag draw dress drink drive drop dry eat embrace enter examine exercise exit "
    "face fall feed fight fill fish fix flip float fly fold follow frown fry gather gaze get give glide go "
    "grab graze greet grill grip grow guard hang have help herd hide hike hit hold hop hug hunt iron jog "
    "juggle jump kick kiss knead kneel knit knock lay lead lean leap leave let lick lie lift light listen "
    "load look make march measure meet melt milk mix move mow nap nod observe offer open operate orbit order "
    "pack paddle paint pan park pass pat pay pedal peel perch perform pet photograph pick pilot place plant "
    "play plow plug point pose pour practice pray prepare press pull punch push put race raise reach read "
    "receive relax remove repair rest ride rise roll row rub run sail salute say scoop scratch see sell "
    "serve set sew shake share shave shear shine shoot shop shout show shower sing sink sit skate skateboard "
    "ski sleep slice slide smell smile smoke sniff snowboard sort spin splash split spray spread squat stack "
    "stand stare step stick stir stop stretch strike stroll study support surf surround sweep swim swing "
    "tackle take talk tap taste teach tear tell throw tie toss touch tow trim try turn tug type use view "
    "visit wade wait accept accompany admire announce applaud attack attract bathe beat beg begin belong "
    "bury bump camp capture caress cheer chop collapse comfort compete complete connect continue control "
    "copy create creep curl dangle dart dash descend destroy dine discover discuss display donate doze drip "
    "drift edge emerge enjoy escape explain explore fasten fetch find finish flap flee flow forget frighten "
    "gallop glance gleam glow gnaw grin groom guide gulp hate haul hear heat hover howl hurry ignore "
    "illuminate inspect install interview invite join keep kill know lace land laugh launch learn like lock "
    "loom lose love lower massage mend mount munch need nibble nuzzle occupy overlook own peek peer please "
    "plunge poke polish pounce praise prefer protect protrude pursue quarrel recline release remain repaint "
    "replace rescue return rinse roam roar roast rotate scare scatter scold scream scrub search seat seem "
    "shelter shovel shut sigh slip sneak snore soar speak spend spill spit sprinkle sprint squeeze stalk "
    "startle stay steal steer sting stroke strum stumble stuff suck surprise sway swallow tease tend terrify "
    "thank think toast trample travel trot tuck twist unload unpack understand vanish venture wander want "
    "warn weave weep welcome whistle win wink wrestle yell zoom start strap situate locate tilt topple slap "
    "cradle extend reflect curve text hook strain dock scrape enclose separate browse glue nail overhang "
    "cling bloom blossom choose chatter chirp click cluck crash crow crumble crack moo purr quack meow growl "
    "hiss buzz hum pop fade freeze drown dump dunk fling forge gasp hatch honk hurl interact kayak lap lunge "
    "mop nest nudge nurse outrun parade pant pierce pinch pitch ponder preen prowl puff rake rattle react "
    "recycle rip rush scamper scurry shred signal sip skid skip slam slurp smash sneeze sob spar spear "
    "sprout stab steam stitch strut sunbathe tickle tiptoe trail trap tread tremble trudge tumble unfold "
    "unlock untie vacuum wag wail waddle whirl wiggle wilt wither yank walk wash watch water wave wear weigh "
    "whip whisper wipe work wrap write yawn".split()
)
IRREGULAR = dict(
    pair.split(":")
    for pair in (
        "sat:sit stood:stand ran:run ate:eat eaten:eat held:hold rode:ride ridden:ride wore:wear worn:wear "
        "threw:throw thrown:throw caught:catch drank:drink drove:drive driven:drive flew:fly flown:fly "
        "swam:swim lain:lie laid:lay lying:lie tying:tie fed:feed took:take taken:take gave:give given:give "
        "made:make fell:fall fallen:fall led:lead met:meet shot:shoot slept:sleep swept:sweep swung:swing "
        "told:tell wrote:write written:write blew:blow blown:blow broke:break broken:break built:build "
        "bent:bend bitten:bite drew:draw drawn:draw dug:dig fought:fight hung:hang hid:hide hidden:hide "
        "knelt:kneel lit:light rose:rise risen:rise sang:sing shook:shake sold:sell shone:shine slid:slide "
        "stuck:stick struck:strike taught:teach tore:tear torn:tear went:go gone:go sank:sink sunk:sink "
        "spun:spin leapt:leap brushin:brush seen:see saw:see won:win lost:lose found:find bought:buy "
        "brought:bring kept:keep left:leave lent:lend meant:mean paid:pay said:say sent:send sought:seek "
        "spent:spend stole:steal stolen:steal swore:swear wept:weep wound:wind wove:weave woven:weave "
        "chose:choose chosen:choose froze:freeze frozen:freeze spoke:speak spoken:speak woke:wake bound:bind "
        "crept:creep dealt:deal drunk:drink fled:flee forgot:forget got:get grew:grow grown:grow had:have "
        "heard:hear knew:know known:know rung:ring sung:sing stung:sting swum:swim thought:think "
        "understood:understand began:begin begun:begin became:become came:come did:do done:do felt:feel "
        "beaten:beat ground:grind sewn:sew mown:mow shown:show sawn:saw shaven:shave dreamt:dream burnt:burn "
        "spilt:spill learnt:learn dying:die clung:cling flung:fling spat:spit bred:breed"
    ).split()
)
NOT_VERBS = frozenset(
    "building ceiling clothing wedding string ring king thing wing morning evening painting railing awning "
    "pudding earring stocking spring sling swing-set icing frosting lightning dining living nothing "
    "something everything during sibling duckling bed red shed speed weed seed sled being ground hundred "
    "left crossing landing parking sitting-room bathing opening drawing dressing crow robin gosling darling "
    "inning sterling herring starling lodging siding flooring topping filling dumpling indeed glasses "
    "scissors jeans shorts".split()
)
# Forms that are only a past tense, and only a participle; other past forms may be either.
PRETERITES = frozenset(
    "ate rode wore threw drank drove flew fell took gave blew broke bit drew hid wrote shook tore rose ran "
    "swam went sang sank saw did chose stole began wove froze spoke woke grew knew became came was were "
    "forgot".split()
)
PARTICIPLES = frozenset(
    "eaten ridden worn thrown driven flown fallen taken given blown broken bitten drawn hidden written "
    "shaken torn risen gone sung sunk seen done chosen stolen begun woven frozen spoken grown known drunk "
    "beaten shown sewn mown".split()
)
# Verbs that these captions have as participles only; bare they are nouns ("framed", not "frame").
PARTICIPIAL = frozenset(
    "fence frame plate litter border crowd coat adorn line top shade dust spot seat design mount stripe "
    "color colour shape pile stain tint trim label mark post bolt chain rope tile carpet edge flank light "
    "cap mask saddle bundle group cage pave furnish center coil curl fold press sand season slice stack tag".split()
)
# Verbs whose bare and -s forms are oftener nouns: these are verbs only where nothing else can be.
NOUNY = frozenset(
    "bark bat bend bite board bow box brush button call camp catch chain chop comb cook count cover crawl "
    "cross crowd cut design dig dip dive drag draw dress drink drive drop edge end exit face fan fight fish "
    "flap float fly fold frame fry glide grill grip group guard hand head herd hike hold hook hunt iron jog "
    "judge kick kiss knit knock lap lead lick lift light line lip load lock look lunch mark march match mix "
    "mount mow mop nap nest nod order pack paddle paint pan park pass pat patch pay pedal peel perch pet "
    "photograph pick pile pilot pin place plant plate play plow plug point pole pop post pot press pump punch "
    "race raft rail rest ride ring rip rock roll row run saddle sail salute saw scoop scratch seal seat shade "
    "shake shelter shine shop show shower sign sink skate skateboard ski skid slice slide smile smoke "
    "snowboard spin splash split spot spray spread stack stand star start steam step stick sting stir stop "
    "store stretch stroll study support surf sweep swing tackle tap taste test text tie tip toast top toss "
    "touch tow track trail train trap travel tread trick trim trip trot tug turn twist type vacuum view visit "
    "walk wash watch water wave whistle wish work wrap bloom blossom honk hatch strum stroke sip hop hover "
    "rope ramp guide land name nail note ground cement cradle crack crate dock crane crow duck fence beach "
    "bed stripe border curl crust shovel rake spear nurse parade ponder pitch broom stain sheet shape spring "
    "shell".split()
)
# Base forms that are participles too ("is read by").
INVARIANT = frozenset("read put set cut hit hurt shut let split spread cast shed burst quit beat come run".split())
# What covers, fills or surrounds is the actor, also behind "with" and "in" ("a cake decorated with flowers").
COVERING = frozenset(
    "cover fill decorate surround top coat adorn crowd litter line wrap stuff border frame shade fence cloak "
    "drench soak sprinkle pack smear drape blanket lit light".split()
)
# Verbs of place: "by" behind their participle is where, unless somebody stands there ("parked by the house").
POSITIONAL = frozenset(
    "park seat situate locate place leave stand sit lie gather perch position station dock moor".split()
)
# "a swimming pool": a noun of these behind an -ing word makes a compound.
COMPOUND_HEADS = frozenset(
    "pool board pan machine shoes room lot cart fountain stick cards rink sheet table bag meter trail path "
    "chair desk field suit".split()
)

PLURALS = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "persons": "person",
    "feet": "foot", "teeth": "tooth", "sheep": "sheep", "wives": "wife", "mice": "mouse", "geese": "goose",
    "knives": "knife", "leaves": "leaf", "wolves": "wolf", "shelves": "shelf", "loaves": "loaf",
    "halves": "half", "calves": "calf", "buses": "bus", "glasses": "glasses", "pants": "pants",
    "trousers": "trousers", "sunglasses": "sunglasses", "woods": "woods", "skis": "ski",
}  # fmt: skip
