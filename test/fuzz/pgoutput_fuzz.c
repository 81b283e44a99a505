/*-------------------------------------------------------------------------
 *
 * pgoutput_fuzz.c
 *	  Messages of another server's changes, well formed and not.
 *
 * An input is the messages of one connection, each behind its length in four
 * bytes.  Most are what a server would say, with a few bytes that are not.  What
 * comes of them must be a stream that the side that applies can take, or an
 * error; the bytes of a message are as they were afterwards; and whatever comes,
 * what is remembered stays small.  What no byte of was changed must be taken.
 *
 *-------------------------------------------------------------------------
 */
#include "source/wal_pgoutput.c"

#include "fuzz.h"

/* In front of an input: what is expected of it. */
#define EXPECT_ANYTHING 0xffff

#define FIRST_RELID 20000
#define NFOLLOWED	3
#define NTABLES		4 /* the last one is not followed */
#define MAX_COLUMNS 12

/* What was written to the side that applies. */
static struct
{
	bool in_xact;
	int64 ordinal;
	uint32 last_number;
	int nchanges;
	int until_gone; /* writes before nobody takes any more; 0: never */
	HTAB *relations;
} queue;

typedef struct Written
{
	uint32 number; /* hash key */
	int natts;
} Written;

/* ------------------------------------------------------------------ */
/* the side that applies                                                */

static bool
is_taken(void)
{
	return queue.until_gone == 0 || --queue.until_gone > 0;
}

void
etl_wal_leave(void)
{
	if (fuzz_on_error == NULL)
		abort();
	longjmp(*fuzz_on_error, 1);
}

bool
etl_change_write_relation(EtlChangeWriter *writer,
						  const EtlSourceRelation *relation)
{
	if (relation->number <= queue.last_number)
		fuzz_fail("a number twice");
	queue.last_number = relation->number;
	for (int i = 0; i < relation->desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(relation->desc, i)->attname);

		if (strnlen(name, NAMEDATALEN) == NAMEDATALEN ||
			pg_encoding_verifymbstr(PG_UTF8, name, strlen(name)) !=
				(int) strlen(name))
			fuzz_fail("a name that is none");
		if (relation->is_key[i] != 0 && relation->is_key[i] != 1)
			fuzz_fail("a flag that is none");
	}
	return is_taken();
}

bool
etl_change_write_begin(EtlChangeWriter *writer, const EtlSourceXact *xact)
{
	if (queue.in_xact || !IS_VALID_TIMESTAMP(xact->commit_time))
		fuzz_fail("an invalid begin");
	queue.in_xact = true;
	queue.ordinal = 0;
	return is_taken();
}

bool
etl_change_write_commit(EtlChangeWriter *writer, const EtlSourceXact *xact)
{
	if (!queue.in_xact || !IS_VALID_TIMESTAMP(xact->commit_time) ||
		xact->end_lsn <= xact->commit_lsn || queue.ordinal == 0)
		fuzz_fail("an invalid commit");
	queue.in_xact = false;
	return is_taken();
}

static void
check_row(const EtlSourceRelation *relation, HeapTuple row)
{
	const Datum *values = (const Datum *) row->t_data;

	if (row->t_len != relation->desc->natts * sizeof(Datum))
		fuzz_fail("a row with other columns");
	for (int i = 0; i < relation->desc->natts; i++)
	{
		const text *value = (const text *) DatumGetPointer(values[i]);

		if (TupleDescAttr(relation->desc, i)->attbyval || value == NULL)
			continue;
		if (pg_encoding_verifymbstr(PG_UTF8, VARDATA(value),
									VARSIZE(value) - VARHDRSZ) !=
			(int) (VARSIZE(value) - VARHDRSZ))
			fuzz_fail("a value that is no text");
	}
}

bool
etl_change_write_event(EtlChangeWriter *writer, const EtlChangeEvent *event)
{
	if (!queue.in_xact || event->ordinal != ++queue.ordinal)
		fuzz_fail("a change in no order");
	if (event->relation == NULL || event->relation->number == 0 ||
		event->relation->number > queue.last_number)
		fuzz_fail("a change of an unknown relation");
	if ((event->kind == ETL_EVENT_INSERT || event->kind == ETL_EVENT_UPDATE) !=
			(event->new_row != NULL) ||
		(event->kind == ETL_EVENT_DELETE && event->old_row == NULL))
		fuzz_fail("a change without its rows");
	if (event->old_row != NULL)
		check_row(event->relation, event->old_row);
	if (event->new_row != NULL)
		check_row(event->relation, event->new_row);
	queue.nchanges++;
	return is_taken();
}

/* ------------------------------------------------------------------ */
/* reading                                                              */

/* As in a process that has just begun. */
static void
begin_anew(int until_gone)
{
	static EtlWalTable table = {"public", "t", InvalidOid};
	List *tables = NIL;

	fuzz_free_all();
	last_number = 0;
	n_described = 0;
	in_xact = has_begun = false;
	last_commit = InvalidXLogRecPtr;
	lent = NULL;
	as_text = NULL;
	PG_exception_stack = NULL;
	error_context_stack = NULL;
	memset(&queue, 0, sizeof(queue));
	queue.until_gone = until_gone;
	for (int i = 0; i < NFOLLOWED; i++)
	{
		EtlPublished *entry = palloc0(sizeof(EtlPublished));

		entry->relid = FIRST_RELID + i;
		entry->table = &table;
		tables = lappend(tables, entry);
	}
	etl_pgoutput_init(NULL, tables);
}

/* One message, in a buffer of its very size and a zero, as libpq gives it. */
static void
read_message(const uint8 *bytes, size_t len)
{
	static char *data = NULL;

	free(data); /* of one that has failed */
	data = malloc(len + 1);
	memcpy(data, bytes, len);
	data[len] = '\0';
	etl_pgoutput_message(data, (int) len, 1000);
	if (memcmp(data, bytes, len) != 0 || data[len] != '\0')
		fuzz_fail("a message has changed");
	free(data);
	data = NULL;
}

void
fuzz_read_input(const uint8 *bytes, size_t len)
{
	int expected;
	int state;
	jmp_buf on_error;

	if (len < 3)
		return;
	expected = bytes[0] << 8 | bytes[1];
	begin_anew(bytes[2]);
	bytes += 3;
	len -= 3;
	fuzz_on_error = &on_error;
	state = setjmp(on_error);
	if (state != 0)
	{
		if (expected != EXPECT_ANYTHING)
			fuzz_fail("what is well formed was refused");
		return;
	}
	while (len >= 4)
	{
		uint32 this;

		memcpy(&this, bytes, 4);
		this = Min(pg_ntoh32(this), len - 4);
		read_message(bytes + 4, this);
		bytes += 4 + this;
		len -= 4 + this;
		if (fuzz_allocated > 32 * 1024 * 1024)
			fuzz_fail("too much is remembered");
	}
	if (expected != EXPECT_ANYTHING && queue.nchanges != expected)
		fuzz_fail("other changes than there were");
}

/* ------------------------------------------------------------------ */
/* inputs                                                               */

typedef struct Described
{
	int natts;
	Oid types[MAX_COLUMNS];
	bool is_there;
} Described;

static uint8 *output;
static size_t output_len;
static uint64 *state;
static size_t last_length; /* where the length of the last value is */

static uint64
any(uint64 below)
{
	return fuzz_random(state) % below;
}

static void
put_bytes(const void *bytes, size_t len)
{
	len = Min(len, FUZZ_MAX_INPUT - output_len);
	memcpy(output + output_len, bytes, len);
	output_len += len;
}

static void
put_number(uint64 value, int size)
{
	uint8 bytes[8];

	for (int i = 0; i < size; i++)
		bytes[i] = (uint8) (value >> (8 * (size - 1 - i)));
	put_bytes(bytes, size);
}

static void
put_value(Oid type)
{
	static const char *texts[] = {"",		  "a",
								  "abc",	  "\xc3\xa9",
								  "?",		  "{1,2}",
								  "NULL",	  "\xf0\x9f\x98\x80",
								  "[,]",	  "\\x00",
								  "infinity", "a longer text"};
	static const char *numbers[] = {"0", "1", "42", "999999999", "12x", ""};
	bool is_number = type == INT4OID && any(8) > 0;
	const char *value = is_number ? numbers[any(lengthof(numbers))] :
									texts[any(lengthof(texts))];

	put_number('t', 1);
	if (any(3) == 0)
		last_length = output_len;
	put_number(strlen(value), 4);
	put_bytes(value, strlen(value));
}

static void
put_row(const Described *table)
{
	put_number(table->natts, 2);
	for (int i = 0; i < table->natts; i++)
	{
		switch (any(8))
		{
			case 0:
				put_number('n', 1);
				break;
			case 1:
				put_number('u', 1);
				break;
			default:
				put_value(table->types[i]);
		}
	}
}

static void
put_relation(Described *table, Oid relid)
{
	static const Oid known[] = {TEXTOID,	  INT4OID,
								BPCHAROID,	  INT4ARRAYOID,
								INT4RANGEOID, REGCLASSOID,
								RECORDOID,	  REGCLASSARRAYOID,
								99999,		  InvalidOid,
								9000};

	put_number('R', 1);
	put_number(relid, 4);
	put_bytes("public\0t", 9);
	put_number("dnfi"[any(4)], 1);
	/* The same as before, often. */
	if (!table->is_there || any(3) == 0)
	{
		table->natts = any(4) == 0 ? 0 : any(MAX_COLUMNS + 1);
		for (int i = 0; i < table->natts; i++)
			table->types[i] = known[any(lengthof(known))];
	}
	table->is_there = true;
	put_number(table->natts, 2);
	for (int i = 0; i < table->natts; i++)
	{
		char name[16];

		put_number(any(2), 1);
		snprintf(name, sizeof(name), any(9) == 0 ? "\xc3\xbc%d" : "c%d", i);
		put_bytes(name, strlen(name) + 1);
		put_number(table->types[i], 4);
		put_number(table->types[i] == BPCHAROID ? 14 : (uint32) -1, 4);
	}
}

static void
put_change(const Described *table, Oid relid)
{
	char kind = "IUUD"[any(4)];

	put_number(kind, 1);
	put_number(relid, 4);
	if (kind == 'D' || (kind == 'U' && any(2) == 0))
	{
		put_number("KO"[any(2)], 1);
		put_row(table);
	}
	if (kind != 'D')
	{
		put_number('N', 1);
		put_row(table);
	}
}

/* Some bytes of a message, or its length, are not what they were. */
static void
spoil(size_t start)
{
	static const uint32 numbers[] = {0,			 1,			 0x7fffffff,
									 0x80000000, 0xffffffff, 0x3fffffff,
									 0x40000000, 1600,		 65535};
	size_t len = output_len - start;
	size_t at = start + (len > 0 ? any(len) : 0);
	uint32 number = numbers[any(lengthof(numbers))];
	int size;

	if (last_length > start && any(2) == 0)
	{
		for (int i = 0; i < 4; i++)
			output[last_length + i] = (uint8) (number >> (24 - 8 * i));
		return;
	}
	switch (any(7))
	{
		case 0:
			output_len = at;
			break;
		case 1:
			for (int i = any(20); i >= 0; i--)
				put_number(any(256), 1);
			break;
		case 2:
			size = any(2) == 0 ? 2 : 4;
			if (at + size > output_len)
				break;
			for (int i = 0; i < size; i++)
				output[at + i] = (uint8) (number >> (8 * (size - 1 - i)));
			break;
		case 3: /* something is left out */
			size = 1 + any(8);
			size = Min(size, output_len - at);
			memmove(output + at, output + at + size, output_len - at - size);
			output_len -= size;
			break;
		case 4: /* something is there too often */
			size = 1 + any(100);
			if (len == 0 || output_len + size > FUZZ_MAX_INPUT)
				break;
			memmove(output + at + size, output + at, output_len - at);
			output_len += size;
			memset(output + at, output[at], size);
			break;
		default:
			if (len > 0)
				output[at] = (uint8) (any(2) == 0 ? any(256) :
													output[at] ^ (1 << any(8)));
	}
}

/* A message, and how many changes it is of. */
static int
put_message(Described *tables, bool *is_open, uint64 *lsn)
{
	int n = any(NTABLES);
	bool described = tables[n].is_there;

	if (!*is_open && any(3) > 0)
	{
		put_number('B', 1);
		put_number(*lsn += 100, 8);
		put_number(*lsn, 8); /* a time */
		put_number(*lsn, 4);
		*is_open = true;
		return 0;
	}
	if (*is_open && any(8) == 0)
	{
		put_number('C', 1);
		put_number(0, 1);
		put_number(*lsn, 8);
		put_number(*lsn + 8, 8);
		put_number(*lsn, 8);
		*is_open = false;
		return 0;
	}
	if (any(20) == 0)
	{
		put_number("YOM"[any(3)], 1);
		put_number(any(1000), 8);
		return 0;
	}
	if (!*is_open || !described || any(6) == 0)
	{
		put_relation(&tables[n], FIRST_RELID + n);
		return 0;
	}
	if (any(10) == 0)
	{
		put_number('T', 1);
		put_number(2, 4);
		put_number(any(4), 1);
		put_number(FIRST_RELID + n, 4);
		put_number(FIRST_RELID + n, 4);
		return n < NFOLLOWED ? 2 : 0;
	}
	put_change(&tables[n], FIRST_RELID + n);
	return n < NFOLLOWED ? 1 : 0;
}

size_t
fuzz_make_input(uint8 *bytes, uint64 *random)
{
	Described tables[NTABLES] = {0};
	int nmessages;
	int spoiled;
	bool is_open = false;
	uint64 lsn = 1000;
	int nchanges = 0;

	output = bytes;
	output_len = 0;
	state = random;
	nmessages = 1 + any(60);
	spoiled = any(4) == 0 ? -1 : (int) any(nmessages);
	put_number(EXPECT_ANYTHING, 2);
	put_number(any(16) == 0 ? 1 + any(20) : 0, 1);
	for (int i = 0; i < nmessages && output_len < FUZZ_MAX_INPUT / 2; i++)
	{
		size_t start = output_len;

		put_number(0, 4);
		if (spoiled >= 0 && any(40) == 0)
			is_open = !is_open;
		nchanges += put_message(tables, &is_open, &lsn);
		if (i == spoiled || (spoiled >= 0 && any(40) == 0))
			spoil(start + 4);
		for (int j = 0; j < 4; j++)
			bytes[start + j] = (uint8) ((output_len - start - 4) >> (24 - 8 * j));
	}
	if (spoiled < 0 && bytes[2] == 0)
	{
		bytes[0] = (uint8) (nchanges >> 8);
		bytes[1] = (uint8) nchanges;
	}
	return output_len;
}

/* ------------------------------------------------------------------ */
/* floods                                                               */

/* Tables that nobody has asked for: at some time, an error. */
static void
flood_of_others(int i)
{
	Described table = {0};

	put_relation(&table, 100000 + i);
}

/* A followed table that is another one each time: at some time, an error. */
static void
flood_of_descriptions(int i)
{
	Described table = {.natts = 1 + i % 2, .types = {INT4OID, TEXTOID}};

	table.is_there = true;
	output_len = 0;
	put_number('R', 1);
	put_number(FIRST_RELID, 4);
	put_bytes("public\0t\0d", 10);
	put_number(table.natts, 2);
	for (int j = 0; j < table.natts; j++)
	{
		put_number(0, 1);
		put_bytes("c", 2);
		put_number(table.types[j], 4);
		put_number(-1, 4);
	}
}

/* Rows, and nothing else: each is forgotten. */
static void
flood_of_rows(int i)
{
	if (i < 2)
	{
		flood_of_descriptions(1);
		if (i == 0)
			return;
		output_len = 0;
		put_number('B', 1);
		put_number(0, 8);
		put_number(0, 8);
		put_number(0, 4);
		return;
	}
	put_number('I', 1);
	put_number(FIRST_RELID, 4);
	put_number('N', 1);
	put_number(2, 2);
	for (int j = 0; j < 2; j++)
	{
		put_number('t', 1);
		put_number(1, 4);
		put_number('7', 1);
	}
}

/* Rows of which each has other columns that cannot be read: a few shapes. */
static void
flood_of_odd_rows(int i)
{
	if (i < 2)
	{
		put_number(i == 0 ? 'R' : 'B', 1);
		put_number(FIRST_RELID, 4);
		put_bytes(i == 0 ? "public\0t\0d" : "\0\0\0\0\0\0\0\0\0\0", 10);
		put_number(MAX_COLUMNS, i == 0 ? 2 : 8);
		for (int j = 0; i == 0 && j < MAX_COLUMNS; j++)
		{
			put_number(0, 1);
			put_bytes("c", 2);
			put_number(INT4OID, 4);
			put_number(-1, 4);
		}
		return;
	}
	put_number('I', 1);
	put_number(FIRST_RELID, 4);
	put_number('N', 1);
	put_number(MAX_COLUMNS, 2);
	for (int j = 0; j < MAX_COLUMNS; j++)
	{
		put_number('t', 1);
		put_number(1, 4);
		put_number(i >> j & 1 ? 'x' : '7', 1);
	}
}

/* So many messages; says whether they ended in an error. */
static bool
flood(void (*put)(int i), int nmessages)
{
	static uint8 bytes[FUZZ_MAX_INPUT];
	static uint64 random;
	volatile size_t most = 0;
	jmp_buf on_error;

	random = 1;
	begin_anew(0);
	fuzz_on_error = &on_error;
	if (setjmp(on_error) != 0)
		return true;
	output = bytes;
	state = &random;
	for (int i = 0; i < nmessages; i++)
	{
		output_len = 0;
		put(i);
		read_message(bytes, output_len);
		most = Max(most, fuzz_allocated);
		if (most > 512 * 1024)
			fuzz_fail("a flood is remembered");
	}
	return false;
}

void
fuzz_end(void)
{
	if (!flood(flood_of_others, 20000) ||
		fuzz_sqlerrcode != ERRCODE_CONNECTION_EXCEPTION)
		fuzz_fail("other tables may describe themselves without end");
	if (!flood(flood_of_descriptions, 20000) ||
		fuzz_sqlerrcode != ERRCODE_CONNECTION_EXCEPTION)
		fuzz_fail("a table may describe itself without end");
	if (flood(flood_of_rows, 20000) || queue.nchanges != 19998)
		fuzz_fail("rows were refused");
	if (flood(flood_of_odd_rows, 10000) || queue.nchanges != 9998)
		fuzz_fail("rows with odd values were refused");
	if (queue.last_number > 1 + MAX_ODD + MAX_COLUMNS)
		fuzz_fail("rows with odd values have too many shapes");
}
