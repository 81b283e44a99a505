"""Random schedules with the slots that they should have, one case per line.

usage: schedule_oracle.py SEED CASES

Two oracles, neither of which knows how the extension does it:

croniter    another implementation of cron, in UTC and in zones as far as their
            next change.  It has no rules of Vixie cron's for the changes.
rule        those rules, word for word, around changes of zones: a schedule of
            fixed times is asked for every local time that it names, any other
            for every moment.

A line holds, separated by tabs: the oracle, the schedule, the zone, the moment
that the slots come after, the moment up to which they are all, the slots.
Where no slot can ever be, the oracle is "refused".
"""

import calendar
import random
import sys
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

try:
    from croniter import croniter
except ImportError:
    croniter = None

UTC = timezone.utc
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
WEEKDAYS = "sun mon tue wed thu fri sat".split()

# Half hours, quarters, seconds, midnights, a day that was left out, a fast
# that interrupts summer, and zones that gave it up.
ZONES = """Europe/Berlin Europe/London Europe/Dublin Europe/Moscow America/New_York
America/Sao_Paulo America/Caracas America/Santiago America/Havana America/Asuncion
America/St_Johns America/Scoresbysund America/Nuuk Australia/Lord_Howe
Australia/Adelaide Pacific/Auckland Pacific/Chatham Pacific/Apia Pacific/Kwajalein
Asia/Kolkata Asia/Kathmandu Asia/Tehran Asia/Amman Asia/Beirut Asia/Gaza
Asia/Pyongyang Africa/Casablanca Africa/Cairo Africa/Monrovia
Antarctica/Troll""".split()

FIRST = datetime(1970, 1, 10, tzinfo=UTC)
LAST = datetime(2037, 1, 1, tzinfo=UTC)


def chance(p):
    return random.random() < p


class Field:
    """A field of cron: its text, and what it means."""

    def __init__(self, low, high, words=None, base=0):
        self.low, self.high, self.words, self.base = low, high, words, base
        self.values = set()
        self.last = False       # L
        self.last_weekdays = set()
        self.lone_range = False  # 8-8
        items = [self.item() for _ in range(random.choice((1, 1, 1, 2, 3)))]
        self.text = ",".join(items)
        self.star = self.text[0] == "*"
        self.odd_star = "*" in ",".join(items[1:]) or self.star and len(items) > 1
        self.full = len(self.values) == high - low + 1

    def set(self, text, values):
        self.text, self.values, self.star = text, set(values), text[0] == "*"
        self.last, self.last_weekdays, self.lone_range = False, set(), False
        self.odd_star, self.full = False, len(self.values) == self.high - self.low + 1

    def word(self, value):
        if self.words and chance(0.4):
            return random.choice((str.lower, str.upper, str.title))(self.words[value - self.base])
        return str(value)

    def item(self):
        low, high = self.low, self.high
        kind = random.random()
        if kind < 0.15:
            self.values |= set(range(low, high + 1))
            return "*"
        if kind < 0.3:
            step = random.randint(1, max(2, (high - low) // random.choice((1, 2, 4))))
            self.values |= set(range(low, high + 1, step))
            return "*/%d" % step
        if kind < 0.7:
            value = random.randint(low, high)
            self.values.add(value)
            return self.word(value)
        a, b = sorted(random.randint(low, high) for _ in "ab")
        self.lone_range |= a == b
        step = random.randint(1, 5)
        step = min(step, high - low + 1)
        self.values |= set(range(a, b + 1, step))
        return "%s-%s" % (self.word(a), self.word(b)) + ("/%d" % step if step > 1 else "")


class Hour(Field):
    """Most changes of zones are at night."""

    def item(self):
        if chance(0.5):
            value = random.choice((0, 1, 2, 2, 3, 23))
            self.values.add(value)
            return str(value)
        return super().item()


class Day(Field):
    def item(self):
        if chance(0.15):
            self.last = True
            return random.choice("Ll")
        return super().item()


class Weekday(Field):
    def item(self):
        kind = random.random()
        value = random.randint(0, 6)
        if kind < 0.15:
            self.last_weekdays.add(value)
            return self.word(value) + random.choice("Ll")
        if kind < 0.2:
            self.values.add(0)
            return "7"
        if kind < 0.3 and value:
            if chance(0.3):
                self.values |= set(range(value + 1))
                return "7-%s" % self.word(value)
            self.values |= set(range(value, 7)) | {0}
            return "%s-%s" % (self.word(value), random.choice(("7", "0", "sun", "Sun")))
        return super().item()


class Cron:
    def __init__(self):
        self.minute = Field(0, 59)
        self.hour = Hour(0, 23)
        self.day = Day(1, 31)
        self.month = Field(1, 12, MONTHS, 1)
        self.weekday = Weekday(0, 6, WEEKDAYS)
        if chance(0.4):
            self.day.__init__(1, 31)
        # More often than chance would: every day, every month, no day.
        for field in (self.day, self.month, self.weekday):
            if chance(0.6):
                field.set("*", range(field.low, field.high + 1))
        if chance(0.02):
            self.day.set("30,31", (30, 31))
            self.month.set("Feb", (2,))
            self.weekday.set("*", range(7))
        self.fields = (self.minute, self.hour, self.day, self.month, self.weekday)
        self.text = random.choice((" ", "  ", "\\t")).join(f.text for f in self.fields)
        self.both = self.day.star or self.weekday.star
        self.fixed = not self.minute.star and not self.hour.star

    def has_day(self, date):
        if date.month not in self.month.values:
            return False
        length = calendar.monthrange(date.year, date.month)[1]
        number = date.isoweekday() % 7
        day = date.day in self.day.values or self.day.last and date.day == length
        weekday = (number in self.weekday.values
                   or number in self.weekday.last_weekdays and date.day + 7 > length)
        return (day and weekday) if self.both else (day or weekday)

    def possible(self):
        """28 years have all the calendars that there are."""
        day = datetime(2000, 1, 1)
        while day.year < 2028:
            if self.has_day(day):
                return True
            day += DAY
        return False

    def has(self, local):
        return (local.second == 0 and local.minute in self.minute.values
                and local.hour in self.hour.values and self.has_day(local))

    def for_croniter(self):
        """As croniter writes it, or None where it is known to differ."""
        day, weekday = self.day, self.weekday
        if any(f.odd_star for f in self.fields):
            return None
        # Its newer versions take "8-8" for all values.
        if any(f.lone_range for f in self.fields):
            return None
        # It takes all values for "*".
        if not self.both and (day.full or len(weekday.values) == 7):
            return None
        # From a day that a month lacks it goes too far into the next month.
        if any(d > 28 for d in day.values) and not day.full and (
                day.last or day.values & {30, 31} and day.values & {1, 2}):
            return None
        text = weekday.text
        if weekday.last_weekdays:
            # It cannot mix them with anything.
            if weekday.values or day.text != "*":
                return None
            text = ",".join("L%d" % d for d in weekday.last_weekdays)
        elif "7-" in text:
            return None
        return " ".join(f.text for f in self.fields[:4]) + " " + text


def utc_of(local, zone):
    """The moment of a local time: the first of two; the end of a gap."""
    moment = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == local:
        return moment
    # The clock jumps over it: where does it get past that time?
    before, after = moment - 2 * DAY, moment + 2 * DAY
    while after - before > timedelta(seconds=1):
        middle = (before + (after - before) / 2).replace(microsecond=0)
        if middle.astimezone(zone).replace(tzinfo=None) > local:
            after = middle
        else:
            before = middle
    return after


known_changes = {}


def changes(name):
    """All changes of a zone's offset."""
    if name not in known_changes:
        zone, found = ZoneInfo(name), []
        day = FIRST
        while day < LAST:
            if day.astimezone(zone).utcoffset() != (day + 4 * DAY).astimezone(zone).utcoffset():
                before, after = day, day + 4 * DAY
                while after - before > timedelta(seconds=1):
                    middle = (before + (after - before) / 2).replace(microsecond=0)
                    if middle.astimezone(zone).utcoffset() == day.astimezone(zone).utcoffset():
                        before = middle
                    else:
                        after = middle
                found.append(after)
            day += 4 * DAY
        known_changes[name] = found
    return known_changes[name]


def emit(oracle, schedule, zone, after, until, slots):
    def stamp(moment):
        return moment.strftime("%Y-%m-%d %H:%M:%S.%f+00")

    print(oracle, schedule, zone, stamp(after), stamp(until),
          "{" + ",".join('"%s"' % stamp(s) for s in slots) + "}", sep="\t")


def some_moment():
    span = int((LAST - FIRST).total_seconds())
    moment = FIRST + timedelta(seconds=random.randrange(span))
    if chance(0.3):
        moment = moment.replace(second=0)
    elif chance(0.3):
        moment = moment.replace(microsecond=random.randrange(1000000))
    return moment


def croniter_case(cron):
    """UTC, or a zone from one change to the next, by its local times."""
    text = cron.for_croniter()
    if text is None:
        return False
    name = random.choice(["UTC"] + ZONES) if chance(0.5) else "UTC"
    zone = ZoneInfo(name)
    after = some_moment()
    offset = after.astimezone(zone).utcoffset()
    if offset.seconds % 60:
        return False
    until = datetime(2100, 1, 1, tzinfo=UTC)
    if name != "UTC":
        until = min([c for c in changes(name) if c > after] + [LAST]) - MINUTE
        if [c for c in changes(name) if after - 2 * DAY < c <= after]:
            return False
    local = (after + offset).replace(tzinfo=None)
    walk = croniter(text, local, ret_type=datetime, day_or=not cron.both)
    slots = []
    while len(slots) < 8:
        slot = walk.get_next().replace(tzinfo=UTC) - offset
        if slot > until:
            break
        slots.append(slot)
    else:
        until = slots[-1]
    emit("croniter", cron.text, name, after, until, slots)
    return True


known_moments = {}


def rule_case(cron):
    """The days around a change."""
    name = random.choice([z for z in ZONES if changes(z)])
    zone = ZoneInfo(name)
    change = random.choice(changes(name))
    begin, end = change - 2 * DAY, change + 2 * DAY
    if cron.fixed:
        local = (begin - DAY).replace(tzinfo=None, hour=0, minute=0, second=0)
        slots = set()
        for day in range(8):
            date = local + day * DAY
            if cron.has_day(date):
                for hour in cron.hour.values:
                    for minute in cron.minute.values:
                        slots.add(utc_of(date.replace(hour=hour, minute=minute), zone))
    else:
        if (name, change) not in known_moments:
            known_moments[name, change] = []
            moment = begin.replace(second=0)
            while moment <= end:
                local = moment.astimezone(zone).replace(tzinfo=None)
                known_moments[name, change].append((moment, local))
                moment += MINUTE if local.second == 0 else timedelta(seconds=1)
        slots = {m for m, local in known_moments[name, change] if cron.has(local)}
    after = change + timedelta(minutes=random.randint(-2 * 1440, 1440) // random.choice((1, 10, 60)))
    slots = sorted(s for s in slots if after < s <= end)[:60]
    if not slots and chance(0.9):
        return False
    emit("rule", cron.text, name, after, slots[-1] if len(slots) == 60 else end, slots)
    return True


def other_case():
    """Schedules that are no cron: once, and by elapsed time."""
    after = some_moment()
    name = random.choice(ZONES)
    if chance(0.5):
        change = random.choice(changes(name) or [after])
        local = change.replace(tzinfo=None, second=0) + timedelta(minutes=random.randint(-900, 900))
        moment = utc_of(local, ZoneInfo(name))
        emit("rule", "at " + local.isoformat(sep=random.choice(" T")), name,
             moment - random.choice((1, 100)) * DAY, LAST, [moment])
    else:
        amounts = [(random.randint(1, 40), unit) for unit in ("week", "day", "hour", "minute", "second")
                   if chance(0.3)] or [(1, "second")]
        text = " ".join("%d %s%s" % (n, unit, "s" * (n > 1)) for n, unit in amounts)
        length = sum((timedelta(**{unit + "s": n}) for n, unit in amounts), timedelta())
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        slot = epoch + ((after - epoch) // length + 1) * length
        emit("rule", "every " + text, name, after, slot + 2 * length,
             [slot, slot + length, slot + 2 * length])


def main():
    seed, cases = int(sys.argv[1]), int(sys.argv[2])
    random.seed(seed)
    done = {"croniter": 0, "rule": 0}
    while min(done.values()) < cases:
        cron = Cron()
        if not cron.possible():
            emit("refused", cron.text, "UTC", FIRST, LAST, [])
            continue
        kind = min(done, key=done.get)
        if kind == "croniter" and croniter is None:
            done[kind] += 1
        else:
            done[kind] += (croniter_case if kind == "croniter" else rule_case)(cron)
    for _ in range(cases // 5):
        other_case()


main()
