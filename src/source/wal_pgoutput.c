/*-------------------------------------------------------------------------
 *
 * wal_pgoutput.c
 *	  What another server's pgoutput says of its changes.
 *
 * The messages are those of version 1 of the protocol, which all servers from
 * 10 on speak; values are text.  What comes is not trusted: each length is
 * checked against what is there, text is checked in its encoding, values go
 * through the input function of their type.  A message that is not well formed
 * is an error, never a crash.
 *
 * A type that is built in, here and there, means the same on both servers,
 * unless its values name objects.  All other types come as text, and it is the
 * target that makes something of it.  So does a value that the type here cannot
 * read: its table is described once more, with that column as text.  An error
 * is then that of the change, where it is applied, and not the reader's, which
 * could only try again.
 *
 * A table is known by its number there, so that a name that was given to
 * another table means nothing.  Tables describe themselves before their first
 * change, and after changes of their own; the same description is passed on
 * once.
 *
 * Takes no locks; looks up types when a table describes itself.
 *
 *-------------------------------------------------------------------------
 */
#include "source/wal_remote.h"

#include "base/base.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"

/* Flags of a column, and options of a TRUNCATE. */
#define COLUMN_IS_KEY	  0x01
#define TRUNCATE_CASCADE  0x01
#define TRUNCATE_SEQUENCE 0x02

/* Descriptions of a table with columns as text: more than that share one. */
#define MAX_ODD 16

/* Columns of tables that describe themselves again, and other tables. */
#ifndef MAX_DESCRIBED
#define MAX_DESCRIBED 250000
#endif

/* A column, and how its values are read. */
typedef struct Column
{
	FmgrInfo input;
	Oid io_param;
	bool is_text;
} Column;

/* A table that is followed, or has described itself. */
typedef struct Known
{
	Oid relid;					 /* hash key */
	const EtlWalTable *table;	 /* NULL: is not followed */
	MemoryContext context;		 /* of the rest */
	EtlSourceRelation *relation; /* NULL: has not described itself */
	Column *columns;
	struct Known *odd;	/* the next with other columns as text, or NULL */
	Bitmapset *as_text; /* of such a one: columns, from 0 */
} Known;

/* A message that is being read. */
typedef struct Message
{
	char *data;
	int len;
	int at;
} Message;

static EtlChangeWriter *writer;
static MemoryContext pgoutput_context;
static MemoryContext change_context;
static HTAB *known_tables; /* Known */
static uint32 last_number = 0;
static int n_described = 0; /* of what MAX_DESCRIBED is of */

/* The transaction that is coming. */
static EtlSourceXact xact;
static bool in_xact;
static bool has_begun; /* it has changes of interest */
static int64 ordinal;
static XLogRecPtr last_commit = InvalidXLogRecPtr;

/* What is being read, for errors. */
static const Known *current_table;
static int current_column;

/* The value that is being read: what is behind it, and was. */
static char *lent = NULL;
static char was_behind;

/* Columns of the message's table that could not be read. */
static Bitmapset *as_text = NULL;

static bool try_message(char *data, int len, XLogRecPtr lsn);
static void take_message(Message *message, XLogRecPtr lsn);
static void give_back(void);
static const Known *with_texts(Known *known);
static void take_begin(Message *message);
static void take_commit(Message *message);
static void take_relation(Message *message);
static EtlSourceRelation *read_relation(Message *message, Oid relid,
										const EtlWalTable *table);
static bool is_same(const EtlSourceRelation *a, const EtlSourceRelation *b);
static void count_descriptions(int n);
static Column *find_inputs(const EtlSourceRelation *relation);
static Known *find_known(Message *message);
static void take_change(Message *message, char kind, XLogRecPtr lsn);
static HeapTuple read_row(Message *message, const Known *known,
						  bool **unchanged);
static Datum read_value(Message *message, const Column *column, int32 typmod);
static void take_truncate(Message *message, XLogRecPtr lsn);
static void write_event(EtlChangeEvent *event, XLogRecPtr lsn);
static void value_context(void *arg);
static char *get_bytes(Message *message, int len);
static uint8 get_byte(Message *message);
static int get_int16(Message *message);
static uint32 get_int32(Message *message);
static uint64 get_int64(Message *message);
static TimestampTz get_time(Message *message);
static char *get_string(Message *message);
pg_noreturn static void refuse_message(const char *what);

/* ------------------------------------------------------------------ */
/* messages                                                             */

/* The tables to follow, in the current memory context. */
void
etl_pgoutput_init(EtlChangeWriter *queue, List *tables)
{
	HASHCTL ctl = {0};
	ListCell *lc;

	writer = queue;
	pgoutput_context = AllocSetContextCreate(CurrentMemoryContext,
											 "etl_patterns published tables",
											 ALLOCSET_DEFAULT_SIZES);
	change_context = AllocSetContextCreate(CurrentMemoryContext,
										   "etl_patterns published change",
										   ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(Known);
	ctl.hcxt = pgoutput_context;
	known_tables = hash_create("etl_patterns published tables", 256, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	foreach(lc, tables)
	{
		const EtlPublished *entry = lfirst(lc);
		Known *known = hash_search(known_tables, &entry->relid, HASH_ENTER,
								   NULL);

		*known = (Known){.relid = entry->relid, .table = entry->table};
	}
}

/* Take a message; what it needs is gone afterwards. */
void
etl_pgoutput_message(char *data, int len, XLogRecPtr lsn)
{
	MemoryContext old = MemoryContextSwitchTo(change_context);

	while (!try_message(data, len, lsn))
		CHECK_FOR_INTERRUPTS();
	bms_free(as_text);
	as_text = NULL;
	MemoryContextSwitchTo(old);
	MemoryContextReset(change_context);
}

/*
 * False if there is a value that cannot be read, whose column is in as_text
 * now: nothing has been written then.  What the input function left behind goes
 * with the transaction, which has done nothing else.
 */
static bool
try_message(char *data, int len, XLogRecPtr lsn)
{
	volatile bool is_taken = false;

	PG_TRY();
	{
		Message message = {data, len, 0};

		take_message(&message, lsn);
		is_taken = true;
	}
	PG_CATCH();
	{
		ErrorData *error;
		bool is_value = lent != NULL;

		give_back();
		MemoryContextSwitchTo(change_context);
		error = CopyErrorData();
		if (!is_value || !etl_error_is_row_fault(error))
			PG_RE_THROW();
		FlushErrorState();
		AbortCurrentTransaction();
		StartTransactionCommand();
		MemoryContextSwitchTo(pgoutput_context);
		as_text = bms_add_member(as_text, current_column);
		MemoryContextSwitchTo(change_context);
		MemoryContextReset(change_context);
	}
	PG_END_TRY();
	return is_taken;
}

static void
take_message(Message *message, XLogRecPtr lsn)
{
	char kind = (char) get_byte(message);

	switch (kind)
	{
		case 'B':
			take_begin(message);
			break;
		case 'C':
			take_commit(message);
			break;
		case 'R':
			take_relation(message);
			break;
		case 'I':
		case 'U':
		case 'D':
			take_change(message, kind, lsn);
			break;
		case 'T':
			take_truncate(message, lsn);
			break;
		case 'Y': /* the name of a type */
		case 'O': /* where the transaction was first */
		case 'M': /* what somebody wrote into the WAL */
			break;
		default:
			refuse_message("kind");
	}
}

bool
etl_pgoutput_in_xact(void)
{
	return in_xact;
}

XLogRecPtr
etl_pgoutput_last_commit(void)
{
	return last_commit;
}

/*
 * A transaction begins; nothing is said of it before it is of interest.  Where
 * it ends will come with its commit: until then any position in its commit
 * record stands for it.
 */
static void
take_begin(Message *message)
{
	if (in_xact)
		refuse_message("order");
	xact.commit_lsn = get_int64(message);
	xact.end_lsn = xact.commit_lsn + 1;
	xact.commit_time = get_time(message);
	xact.xid = get_int32(message);
	in_xact = true;
	has_begun = false;
	ordinal = 0;
}

static void
take_commit(Message *message)
{
	XLogRecPtr commit_lsn;

	(void) get_byte(message); /* flags: there are none */
	commit_lsn = get_int64(message);
	xact.end_lsn = get_int64(message);
	xact.commit_time = get_time(message);
	if (!in_xact || commit_lsn != xact.commit_lsn ||
		xact.end_lsn <= xact.commit_lsn)
		refuse_message("end of a transaction");
	in_xact = false;
	if (has_begun && !etl_change_write_commit(writer, &xact))
		etl_wal_leave();
	last_commit = xact.end_lsn;
}

/* ------------------------------------------------------------------ */
/* tables                                                               */

/* A table describes itself. */
static void
take_relation(Message *message)
{
	Oid relid = get_int32(message);
	bool found;
	Known *known = hash_search(known_tables, &relid, HASH_ENTER, &found);
	MemoryContext context;
	MemoryContext old;
	EtlSourceRelation *relation;

	if (!found)
	{
		known->table = NULL;
		count_descriptions(1);
	}
	if (known->table == NULL)
		return;
	context = AllocSetContextCreate(pgoutput_context,
									"etl_patterns published table",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	relation = read_relation(message, relid, known->table);
	if (known->relation != NULL && is_same(known->relation, relation))
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
		return;
	}
	if (known->relation != NULL)
		count_descriptions(relation->desc->natts + 10);
	relation->number = ++last_number;
	known->odd = NULL;
	if (known->context != NULL)
		MemoryContextDelete(known->context);
	known->context = context;
	known->columns = find_inputs(relation);
	known->relation = relation;
	MemoryContextSwitchTo(old);
	if (!etl_change_write_relation(writer, relation))
		etl_wal_leave();
}

/* A description, under the name that we know the table by. */
static EtlSourceRelation *
read_relation(Message *message, Oid relid, const EtlWalTable *table)
{
	EtlSourceRelation *relation = palloc0(sizeof(EtlSourceRelation));
	int natts;

	(void) get_string(message); /* its schema, and its name, now */
	(void) get_string(message);
	relation->relid = relid;
	relation->schema = pstrdup(table->schema);
	relation->name = pstrdup(table->name);
	relation->identity = (char) get_byte(message);
	if (strchr("dnfi", relation->identity) == NULL || relation->identity == '\0')
		refuse_message("replica identity");
	natts = get_int16(message);
	if (natts > MaxHeapAttributeNumber)
		refuse_message("number of columns");
	relation->desc = CreateTemplateTupleDesc(natts);
	relation->is_key = palloc0(Max(natts, 1) * sizeof(bool));
	for (int i = 0; i < natts; i++)
	{
		uint8 flags = get_byte(message);
		char *name = get_string(message);
		Oid type_there = get_int32(message);
		Oid type = etl_type_of_remote(type_there);
		int32 typmod = (int32) get_int32(message);

		if (strlen(name) >= NAMEDATALEN)
			refuse_message("name of a column");
		TupleDescInitEntry(relation->desc, (AttrNumber) (i + 1), name, type,
						   type == type_there ? typmod : -1, 0);
		relation->is_key[i] = (flags & COLUMN_IS_KEY) != 0 ||
							  relation->identity == REPLICA_IDENTITY_FULL;
	}
	return relation;
}

/* What is not here is text, and so is what names objects, which differ. */
Oid
etl_type_of_remote(Oid type_there)
{
	Oid type = type_there;
	Oid element;

	if (!OidIsValid(type) || type >= FirstGenbkiObjectId ||
		!get_typisdefined(type))
		return TEXTOID;
	element = get_element_type(type);
	switch (OidIsValid(element) ? element : type)
	{
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case ACLITEMOID:
		case PG_NODE_TREEOID:
			return TEXTOID;
		default:
			break;
	}
	switch (get_typtype(OidIsValid(element) ? element : type))
	{
		case TYPTYPE_BASE:
		case TYPTYPE_RANGE:
		case TYPTYPE_MULTIRANGE:
			return type;
		default:
			return TEXTOID;
	}
}

static bool
is_same(const EtlSourceRelation *a, const EtlSourceRelation *b)
{
	int natts = a->desc->natts;

	return a->identity == b->identity && natts == b->desc->natts &&
		   memcmp(a->is_key, b->is_key, natts * sizeof(bool)) == 0 &&
		   equalTupleDescs(a->desc, b->desc);
}

/* All are remembered while we live: with too many another process begins anew. */
static void
count_descriptions(int n)
{
	n_described += n;
	if (n_described > MAX_DESCRIBED)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("the server has described its tables too often")));
}

/* The input functions of a table's columns, in the current memory context. */
static Column *
find_inputs(const EtlSourceRelation *relation)
{
	int natts = relation->desc->natts;
	Column *columns = palloc0(Max(natts, 1) * sizeof(Column));

	for (int i = 0; i < natts; i++)
	{
		Oid type = TupleDescAttr(relation->desc, i)->atttypid;
		Oid function;

		getTypeInputInfo(type, &function, &columns[i].io_param);
		fmgr_info(function, &columns[i].input);
		columns[i].is_text = type == TEXTOID;
	}
	return columns;
}

/*
 * The description of a table by which a change is read: the usual one, or one
 * with the columns as text that cannot be read otherwise, which is passed on.
 */
static const Known *
with_texts(Known *known)
{
	MemoryContext context;
	MemoryContext old;
	Bitmapset *columns;
	Known *last = known->odd;
	Known *odd;
	int nodds = 0;

	if (as_text == NULL)
		return known;
	for (odd = last; odd != NULL; odd = odd->odd, nodds++)
		if (bms_equal(odd->as_text, as_text))
			return odd;
	if (nodds == MAX_ODD && bms_is_subset(as_text, last->as_text))
		return last;
	context = AllocSetContextCreate(known->context, "etl_patterns odd table",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	columns = bms_copy(as_text);
	if (nodds == MAX_ODD)
	{
		columns = bms_add_members(columns, last->as_text);
		known->odd = last->odd;
		MemoryContextDelete(last->context);
	}
	odd = palloc(sizeof(Known));
	*odd = *known;
	odd->context = context;
	odd->as_text = columns;
	odd->relation = palloc(sizeof(EtlSourceRelation));
	*odd->relation = *known->relation;
	odd->relation->number = ++last_number;
	odd->relation->desc = CreateTupleDescCopy(known->relation->desc);
	for (int i = 0; i < odd->relation->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(known->relation->desc, i);

		if (bms_is_member(i, columns))
			TupleDescInitEntry(odd->relation->desc, (AttrNumber) (i + 1),
							   NameStr(att->attname), TEXTOID, -1, 0);
	}
	odd->columns = find_inputs(odd->relation);
	count_descriptions(odd->relation->desc->natts + 10);
	MemoryContextSwitchTo(old);
	known->odd = odd;
	if (!etl_change_write_relation(writer, odd->relation))
		etl_wal_leave();
	return odd;
}

/* The table that a change is of. */
static Known *
find_known(Message *message)
{
	Oid relid = get_int32(message);
	Known *known = hash_search(known_tables, &relid, HASH_FIND, NULL);

	if (known == NULL || (known->table != NULL && known->relation == NULL))
		refuse_message("number of a table");
	return known;
}

/* ------------------------------------------------------------------ */
/* changes                                                              */

/* A row was inserted, updated or deleted. */
static void
take_change(Message *message, char kind, XLogRecPtr lsn)
{
	EtlChangeEvent event = {0};
	bool *ignored;
	Known *found;
	const Known *known;
	char part;

	if (!in_xact)
		refuse_message("order");
	found = find_known(message);
	if (found->table == NULL)
		return;
	known = with_texts(found);
	event.relation = known->relation;
	event.kind = kind == 'I' ? ETL_EVENT_INSERT :
				 kind == 'U' ? ETL_EVENT_UPDATE :
							   ETL_EVENT_DELETE;
	part = (char) get_byte(message);
	if (kind != 'I' && (part == 'K' || part == 'O'))
	{
		event.old_is_key = part == 'K';
		event.old_row = read_row(message, known, &ignored);
		if (kind == 'U')
			part = (char) get_byte(message);
	}
	else if (kind == 'D')
		refuse_message("old row");
	if (kind != 'D')
	{
		if (part != 'N')
			refuse_message("new row");
		event.new_row = read_row(message, known, &event.unchanged);
	}
	write_event(&event, lsn);
}

/* A row; and which of its values were not logged, or NULL if all were. */
static HeapTuple
read_row(Message *message, const Known *known, bool **unchanged)
{
	TupleDesc desc = known->relation->desc;
	int natts = desc->natts;
	Datum *values = palloc(Max(natts, 1) * sizeof(Datum));
	bool *nulls = palloc(Max(natts, 1) * sizeof(bool));
	Size size = 0;
	ErrorContextCallback callback = {error_context_stack, value_context, NULL};

	*unchanged = NULL;
	if (get_int16(message) != natts)
		refuse_message("number of columns");
	current_table = known;
	error_context_stack = &callback;
	for (int i = 0; i < natts; i++)
	{
		current_column = i;
		values[i] = (Datum) 0;
		nulls[i] = true;
		switch (get_byte(message))
		{
			case 'n':
				break;
			case 'u':
				if (*unchanged == NULL)
					*unchanged = palloc0(natts * sizeof(bool));
				(*unchanged)[i] = true;
				break;
			case 't':
				values[i] = read_value(message, &known->columns[i],
									   TupleDescAttr(desc, i)->atttypmod);
				nulls[i] = false;
				/* The type may make it much longer than it comes. */
				if (TupleDescAttr(desc, i)->attlen == -1)
					size += VARSIZE_ANY(DatumGetPointer(values[i]));
				if (size > MaxAllocSize)
					refuse_message("size of a row");
				break;
			default:
				refuse_message("kind of value");
		}
	}
	error_context_stack = callback.previous;
	return heap_form_tuple(desc, values, nulls);
}

/* A value; an input function is lent the zero that it wants behind it. */
static Datum
read_value(Message *message, const Column *column, int32 typmod)
{
	uint32 len = get_int32(message);
	char *data;
	Datum value;

	if (len > MaxAllocSize)
		refuse_message("length of a value");
	data = get_bytes(message, (int) len);
	(void) pg_verifymbstr(data, (int) len, false);
	if (column->is_text)
		return PointerGetDatum(cstring_to_text_with_len(data, (int) len));

	lent = data + len;
	was_behind = *lent;
	*lent = '\0';
	value = InputFunctionCall((FmgrInfo *) &column->input, data,
							  column->io_param, typmod);
	give_back();
	return value;
}

/* The byte behind the value. */
static void
give_back(void)
{
	if (lent != NULL)
		*lent = was_behind;
	lent = NULL;
}

/*
 * Tables were truncated.  What was done to a partition alone does not come:
 * its server says nothing about it.
 */
static void
take_truncate(Message *message, XLogRecPtr lsn)
{
	uint32 ntables;
	uint8 options;

	if (!in_xact)
		refuse_message("order");
	ntables = get_int32(message);
	options = get_byte(message);
	for (uint32 i = 0; i < ntables; i++)
	{
		EtlChangeEvent event = {0};
		Known *known = find_known(message);

		if (known->table == NULL)
			continue;
		event.kind = ETL_EVENT_TRUNCATE;
		event.relation = known->relation;
		event.cascade = (options & TRUNCATE_CASCADE) != 0;
		event.restart_sequences = (options & TRUNCATE_SEQUENCE) != 0;
		write_event(&event, lsn);
	}
}

/* Write a change, and before the first that the transaction has begun. */
static void
write_event(EtlChangeEvent *event, XLogRecPtr lsn)
{
	event->lsn = lsn;
	event->ordinal = ++ordinal;
	if (!has_begun && !etl_change_write_begin(writer, &xact))
		etl_wal_leave();
	has_begun = true;
	if (!etl_change_write_event(writer, event))
		etl_wal_leave();
}

/* Says which value an error is about. */
static void
value_context(void *arg)
{
	const EtlSourceRelation *relation = current_table->relation;

	errcontext("column \"%s\" of table %s.%s",
			   NameStr(TupleDescAttr(relation->desc, current_column)->attname),
			   relation->schema, relation->name);
}

/* ------------------------------------------------------------------ */
/* parts of messages                                                    */

static char *
get_bytes(Message *message, int len)
{
	char *data = message->data + message->at;

	if (len > message->len - message->at)
		refuse_message("length");
	message->at += len;
	return data;
}

static uint8
get_byte(Message *message)
{
	return *(uint8 *) get_bytes(message, 1);
}

static int
get_int16(Message *message)
{
	uint16 value;

	memcpy(&value, get_bytes(message, sizeof(value)), sizeof(value));
	return pg_ntoh16(value);
}

static uint32
get_int32(Message *message)
{
	uint32 value;

	memcpy(&value, get_bytes(message, sizeof(value)), sizeof(value));
	return pg_ntoh32(value);
}

static uint64
get_int64(Message *message)
{
	uint64 value;

	memcpy(&value, get_bytes(message, sizeof(value)), sizeof(value));
	return pg_ntoh64(value);
}

/* When something was committed: always a time that there is. */
static TimestampTz
get_time(Message *message)
{
	TimestampTz time = (TimestampTz) get_int64(message);

	if (!IS_VALID_TIMESTAMP(time))
		refuse_message("time");
	return time;
}

/* A text that ends with a zero, which must be there. */
static char *
get_string(Message *message)
{
	char *data = message->data + message->at;
	int left = message->len - message->at;
	int len = (int) strnlen(data, left);

	if (len == left)
		refuse_message("name");
	message->at += len + 1;
	(void) pg_verifymbstr(data, len, false);
	return data;
}

static void
refuse_message(const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
					errmsg("the server has sent a change that is not well "
						   "formed: invalid %s",
						   what)));
}
