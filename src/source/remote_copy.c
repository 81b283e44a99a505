/*-------------------------------------------------------------------------
 *
 * remote_copy.c
 *	  Rows of a remote table, by COPY in the binary format.
 *
 * A value comes in binary if its type here and there is the same one of the
 * types whose binary form means the same on every server; any other
 * comes as text and goes through the input function of the type here, as if
 * the wrapper had fetched it.  So does a value whose type modifier here is
 * another, where the receive function would not check it as an assignment does.
 * What is made of the bytes is settled in remote_decode.c.
 *
 * Memory: one row, and libpq's buffer, which holds at least the longest one.
 *
 * Invariants:
 *	- The types are looked up in the transaction that reads the rows, which
 *	  keeps a lock on the table: they cannot change in between.
 *
 *-------------------------------------------------------------------------
 */
#include "source/remote.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* A COPY that is being read. */
typedef struct RemoteCopy
{
	const EtlRemoteRows *rows_of;
	TupleTableSlot *slot;
	EtlRemoteColumn *columns;
	int natts;
	int current; /* column that is being decoded, or -1 */
	MemoryContext row_context;
	EtlRowCall call;
	void *arg;
	int64 rows;
} RemoteCopy;

static void check_columns(EtlRemoteSite *site, const AttrNumber *attnums,
						  int natts);
static void look_up_columns(RemoteCopy *copy);
static char *select_list(RemoteCopy *copy, bool cast);
static TupleDesc rows_desc(Relation source, const AttrNumber *attnums,
						   int natts);
static void read_rows(RemoteCopy *copy, EtlRemote *remote);
static char *skip_header(char *data, char *end);
static char *read_row(RemoteCopy *copy, char *data, char *end);
static char *decode_row(RemoteCopy *copy, char *data, char *end);
static void conversion_context(void *arg);
pg_noreturn static void bad_data(void);

/* See etl_site_rows(). */
int64
etl_remote_rows(EtlSite *site, const char *where, const AttrNumber *attnums,
				int natts, EtlRowCall call, void *arg)
{
	EtlRemoteSite *self = (EtlRemoteSite *) site;
	EtlRemoteRows rows = {0};

	check_columns(self, attnums, natts);
	rows.remote = self->remote;
	rows.from = site->from;
	rows.name = RelationGetRelationName(site->source);
	rows.where = where;
	rows.desc = rows_desc(site->source, attnums, natts);
	rows.columns = palloc(sizeof(char *) * Max(natts, 1));
	for (int i = 0; i < natts; i++)
		rows.columns[i] = site->columns[attnums[i] - 1];
	if (PQtransactionStatus(self->remote->conn) == PQTRANS_IDLE)
		etl_remote_begin(site);
	return etl_remote_copy_rows(&rows, call, arg);
}

/*
 * Hands over rows as their server has them, in the types of the description.
 * The caller has begun a transaction there, which has a lock on what is read.
 */
int64
etl_remote_copy_rows(const EtlRemoteRows *rows, EtlRowCall call, void *arg)
{
	RemoteCopy copy = {0};
	ErrorContextCallback context;
	StringInfoData sql;

	copy.rows_of = rows;
	copy.natts = rows->desc->natts;
	copy.current = -1;
	copy.call = call;
	copy.arg = arg;
	copy.slot = MakeSingleTupleTableSlot(rows->desc, &TTSOpsVirtual);
	copy.row_context = AllocSetContextCreate(CurrentMemoryContext,
											 "etl_patterns remote row",
											 ALLOCSET_DEFAULT_SIZES);
	look_up_columns(&copy);

	initStringInfo(&sql);
	appendStringInfo(&sql, "COPY (SELECT %s FROM %s", select_list(&copy, true),
					 rows->from);
	if (rows->where != NULL)
		appendStringInfo(&sql, " WHERE %s", rows->where);
	appendStringInfoString(&sql, ") TO STDOUT (FORMAT binary)");
	etl_remote_query(rows->remote, sql.data, PGRES_COPY_OUT);

	context.callback = conversion_context;
	context.arg = &copy;
	context.previous = error_context_stack;
	error_context_stack = &context;
	read_rows(&copy, rows->remote);
	error_context_stack = context.previous;

	ExecDropSingleTupleTableSlot(copy.slot);
	MemoryContextDelete(copy.row_context);
	return copy.rows;
}

/* May the caller read them, and are they all there? */
static void
check_columns(EtlRemoteSite *site, const AttrNumber *attnums, int natts)
{
	Relation source = site->pub.source;
	Oid relid = RelationGetRelid(source);
	bool reads_all = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) ==
					 ACLCHECK_OK;
	StringInfoData missing;

	initStringInfo(&missing);
	for (int i = 0; i < natts; i++)
	{
		AttrNumber attnum = attnums[i];

		if (!reads_all && pg_attribute_aclcheck(relid, attnum, GetUserId(),
												ACL_SELECT) != ACLCHECK_OK)
			aclcheck_error_col(ACLCHECK_NO_PRIV, OBJECT_COLUMN,
							   RelationGetRelationName(source),
							   get_attname(relid, attnum, false));
		if (site->is_missing[attnum - 1])
			appendStringInfo(&missing, "%s\"%s\"", missing.len > 0 ? ", " : "",
							 site->names[attnum - 1]);
	}
	if (missing.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("relation %s on server \"%s\" has no column %s",
						site->pub.from, site->remote->server, missing.data),
				 errhint("See the option column_name of the columns of foreign table \"%s\".",
						 RelationGetRelationName(source))));
}

/* The columns that are handed over, without what makes them this table's. */
static TupleDesc
rows_desc(Relation source, const AttrNumber *attnums, int natts)
{
	TupleDesc desc = CreateTemplateTupleDesc(natts);

	for (int i = 0; i < natts; i++)
		TupleDescCopyEntry(desc, i + 1, RelationGetDescr(source), attnums[i]);
	return desc;
}

/* Asks for the types of the columns there, and chooses how they come. */
static void
look_up_columns(RemoteCopy *copy)
{
	const EtlRemoteRows *rows = copy->rows_of;
	PGresult *result;
	char *sql;

	copy->columns = palloc0(sizeof(EtlRemoteColumn) * Max(copy->natts, 1));
	sql = psprintf("SELECT %s FROM %s LIMIT 0", select_list(copy, false),
				   rows->from);
	result = etl_remote_query(rows->remote, sql, PGRES_TUPLES_OK);
	if (PQnfields(result) != copy->natts)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the server of relation %s has given an unexpected answer",
						rows->from)));
	for (int i = 0; i < copy->natts; i++)
		etl_remote_choose_decoder(&copy->columns[i],
								  TupleDescAttr(rows->desc, i),
								  PQftype(result, i), PQfmod(result, i));
	etl_remote_clear(rows->remote);
}

/* The columns as a query there names them. */
static char *
select_list(RemoteCopy *copy, bool cast)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < copy->natts; i++)
		appendStringInfo(&sql, "%s%s%s", i > 0 ? ", " : "",
						 copy->rows_of->columns[i],
						 cast && copy->columns[i].as_text ? "::pg_catalog.text" :
															"");
	return sql.data;
}

/* Reads the COPY to its end. */
static void
read_rows(RemoteCopy *copy, EtlRemote *remote)
{
	bool has_header = false;
	bool has_trailer = false;
	int len;

	while ((len = etl_remote_copy_data(remote)) >= 0)
	{
		char *data = remote->buffer;
		char *end = data + len;

		if (!has_header)
			data = skip_header(data, end);
		has_header = true;
		while (data < end)
		{
			CHECK_FOR_INTERRUPTS();
			if (has_trailer)
				bad_data();
			data = read_row(copy, data, end);
			has_trailer = data == NULL;
			if (has_trailer)
				break;
		}
	}
	if (!has_trailer)
		bad_data();
}

/* The signature, flags that mean nothing to us, and a header extension. */
static char *
skip_header(char *data, char *end)
{
	/* with the zero at its end */
	static const char signature[] = "PGCOPY\n\377\r\n";
	uint32 flags;
	uint32 extension;

	if (end - data < (int) (sizeof(signature) + 2 * sizeof(uint32)) ||
		memcmp(data, signature, sizeof(signature)) != 0)
		bad_data();
	data += sizeof(signature);
	memcpy(&flags, data, sizeof(flags));
	data += sizeof(flags);
	memcpy(&extension, data, sizeof(extension));
	data += sizeof(extension);
	extension = pg_ntoh32(extension);
	/* The upper half of the flags changes the format. */
	if ((pg_ntoh32(flags) >> 16) != 0 || extension > end - data)
		bad_data();
	return data + extension;
}

/* Hands one row over.  Returns what follows it, or NULL at the trailer. */
static char *
read_row(RemoteCopy *copy, char *data, char *end)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(copy->row_context);
	int16 natts;

	if (end - data < (int) sizeof(natts))
		bad_data();
	memcpy(&natts, data, sizeof(natts));
	natts = (int16) pg_ntoh16((uint16) natts);
	data += sizeof(natts);
	if (natts == -1)
		data = NULL;
	else if (natts != copy->natts)
		bad_data();
	else
	{
		data = decode_row(copy, data, end);
		copy->rows++;
		copy->call(copy->arg, copy->slot);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(copy->row_context);
	return data;
}

/* Puts a row's values into the slot.  Returns what follows them. */
static char *
decode_row(RemoteCopy *copy, char *data, char *end)
{
	TupleTableSlot *slot = copy->slot;

	ExecClearTuple(slot);
	for (int i = 0; i < copy->natts; i++)
	{
		EtlRemoteColumn *column = &copy->columns[i];
		int32 len;

		copy->current = i;
		if (end - data < (int) sizeof(len))
			bad_data();
		memcpy(&len, data, sizeof(len));
		len = (int32) pg_ntoh32((uint32) len);
		data += sizeof(len);
		if (len == -1)
		{
			slot->tts_values[i] = etl_remote_decode_null(column,
														 &slot->tts_isnull[i]);
			continue;
		}
		if (len < 0 || len > end - data)
			bad_data();
		slot->tts_values[i] = column->decode(column, data, len);
		slot->tts_isnull[i] = false;
		data += len;
	}
	copy->current = -1;
	ExecStoreVirtualTuple(slot);
	return data;
}

/* Says which value an error is about. */
static void
conversion_context(void *arg)
{
	RemoteCopy *copy = arg;

	if (copy->current >= 0)
		errcontext("column \"%s\" of foreign table \"%s\"",
				   copy->columns[copy->current].name, copy->rows_of->name);
}

static void
bad_data(void)
{
	ereport(ERROR, (errcode(ERRCODE_BAD_COPY_FILE_FORMAT),
					errmsg("unexpected data in a binary COPY")));
}
